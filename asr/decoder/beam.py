"""Prefix beam search for CTC with language model, lexicon and hotwords, compiled by numba.

    decoder = BeamDecoder(vocabulary, 0.04, DecoderConfig("beam"), language_model)
    hypothesis = decoder.decode(log_probs)        # (T', V)
    hypotheses = decoder.decode_many(list_of_log_probs, threads=2)

It looks for the text with the highest

    score = log p_ctc(text) + alpha * log p_lm(text) + beta * words + unknown * unknown words
            + the bonuses of the hotwords in it

where p_ctc sums over all alignments (Graves et al. 2006), and p_lm is the n-gram model's with the
end of the sentence. A network also learns how often each symbol is said, which the language model
knows better: `prior` times the logarithm of that share, measured against the blank's, is taken out
of each log-probability first (as in Miao et al. 2015, "EESEN"). The search is Hannun et al. 2014,
"First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs",
with five additions:

- Words that the lexicon lacks may be spelled, for the price of `unknown` (unless `strict`).
- A beginning of a word is charged with the best unigram below it in the lexicon, ahead of the end
  of the word where the language model speaks (look-ahead).
- Two texts that nothing to come can tell apart, because the language model's state, the letters of
  the open word and the hotwords' state are equal, are compared at once; only the better is kept
  (recombination).
- Masses are probabilities, not logarithms, scaled by the best of each frame.
- A frame in which nothing but the blank is likely costs almost nothing.

However the frames are cut into calls, the result is the same to the last bit.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decoder.config import DecoderConfig, check_log_probs
from asr.decoder.hotwords import Hotwords, build_hotwords
from asr.decoder.hypothesis import Hypothesis, Word
from asr.decoder.lexicon import MASK_SYMBOLS, Nodes, build_lexicon, look_ahead, spell
from asr.decoder.search import (
    EMPTY_TEXT,
    END,
    HISTORY,
    LIFT,
    PROGRESS,
    TEXT,
    Rules,
    advance,
    compact,
    conclude,
    find_settled,
    trace,
)
from asr.errors import ConfigError
from asr.lm.model import LanguageModel
from asr.lm.ngrams import NGrams
from asr.text import Vocabulary

FIRST_HISTORY = 4096  # nodes; doubled when half of them are still needed


class BeamState:
    """What a `BeamDecoder` remembers of the frames so far; give each stream its own."""

    def __init__(self, rules: Rules, begin_state: int) -> None:
        slots = 2 * rules.beam + 2  # those of this frame, and those of the next
        self.texts = np.zeros(slots, TEXT)
        self.active = np.zeros(rules.beam, np.int32)
        self.free = np.arange(slots - 1, -1, -1, dtype=np.int32)
        self.history = np.empty(FIRST_HISTORY + 4 * slots, HISTORY)
        self.progress = np.zeros(1, PROGRESS)
        self.progress["texts"], self.progress["free"], self.progress["history"] = 1, slots - 1, 1
        self.settled = ""  # the text up to the settled node
        text = self.texts[0]  # nothing was said; more spaces change nothing
        text["blank"], text["word_weight"] = 1.0, np.nan
        text["last"] = max(rules.space, 0)
        text["state"], text["node"] = begin_state, rules.first_node
        text["text"] = text["future"] = EMPTY_TEXT

    @property
    def frames(self) -> int:
        """How many frames have been read."""
        return int(self.progress["frames"][0])

    def make_room(self) -> None:
        """Forget the history that is not needed; double it where much is."""
        compact(self.progress, self.texts, self.active, self.history)
        if 2 * self.progress["history"][0] > len(self.history):
            longer = np.empty(2 * len(self.history), HISTORY)
            longer[: len(self.history)] = self.history
            self.history = longer


class BeamDecoder:
    """Prefix beam search; see the module for what it maximizes, `DecoderConfig` for its numbers.

    - With a language model its words are the lexicon, unless `lexicon` names others, which then
      count as unknown to the model where it lacks them. With neither, the score is the acoustic
      one alone. A lexicon without a language model counts `beta` and `unknown`, but no `alpha`.
    - `hotwords` are words or phrases with the bonus in nats that each occurrence earns for each of
      its words. Words of hotwords may be unknown to model and lexicon, without paying `unknown`.
    - A word starts with the frame in which most of the mass first says its first symbol and ends
      with the last in which its last symbol outweighs the blank. Its confidence comes from the
      share of the beam that agrees on it when the next word ends, see `DecoderConfig`.
    - The hypothesis's confidence is the geometric mean over its words, 1 without any.

    One decoder serves any number of streams and threads: it is not changed by use. Raises
    ConfigError for numbers that do not fit, TextError for hotwords that cannot be spelled.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        frame_seconds: float,
        config: DecoderConfig | None = None,
        language_model: LanguageModel | None = None,
        lexicon: Sequence[str] | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        if vocabulary.space is None and (language_model or lexicon is not None):
            raise ConfigError(
                "a language model of words needs a vocabulary with a space, which parts words"
            )
        if not 0 < frame_seconds < math.inf:
            raise ConfigError(f"a frame must last some seconds, not {frame_seconds}")
        self.vocabulary = vocabulary
        self.frame_seconds = frame_seconds
        self.language_model = language_model
        self._code_points = np.array([0, *map(ord, vocabulary.symbols[1:])], np.uint32)
        self._ngrams = language_model.ngrams if language_model else _empty_ngrams()
        self._begin_state = language_model.begin_state if language_model else 0
        self.guided = language_model is not None or lexicon is not None
        self._plain_lexicon = _make_lexicon(vocabulary, language_model, lexicon, hotwords or {})
        self._hot = bool(hotwords)
        self._hotwords = (
            build_hotwords(hotwords, vocabulary) if hotwords else _no_hotwords(vocabulary)
        )
        self._configure(config or DecoderConfig("beam"))

    def configured(self, config: DecoderConfig) -> "BeamDecoder":
        """A decoder with other numbers on the same model, lexicon and hotwords, made quickly."""
        other = copy(self)
        other._configure(config)
        return other

    def _configure(self, config: DecoderConfig) -> None:
        if config.kind != "beam":
            raise ConfigError(f"a beam decoder was given the configuration {config.kind!r}")
        if config.strict and not self.guided:
            raise ConfigError("a strict decoder needs a language model or a lexicon")
        if config.priors and len(config.priors) != len(self.vocabulary):
            raise ConfigError(
                f"decoder.priors holds {len(config.priors)} shares for a vocabulary of "
                f"{len(self.vocabulary)} symbols: run `asr tune` with this checkpoint"
            )
        self.config = config
        self._offsets = None
        if config.prior and self.guided:
            # 0 for the blank, so that silence stays as likely as it is.
            logs = np.log(np.array(config.priors))
            self._offsets = (config.prior * (logs[0] - logs)).astype(np.float32)  # (V,)
        alpha, unknown_log_prob, log_probs = 0.0, 0.0, np.zeros(1)
        if self.language_model is not None:
            alpha = float(config.alpha)
            log_probs = _unigram_log_probs(self.language_model)
            unknown_log_prob = float(log_probs[self.language_model.unknown_word])
        self._lexicon = look_ahead(
            self._plain_lexicon, log_probs, alpha, unknown_log_prob, config.unknown
        )
        word_bonus = math.exp(config.beta) if self.guided else 1.0
        # Leaving the lexicon may be cheaper than what lies ahead there; hardly by more than LIFT.
        dearest = float(self._lexicon["leave"].max()) if self.guided else 1.0
        boost = self._hotwords.boost * min(max(dearest, 1.0), LIFT)
        space = self.vocabulary.space
        self._rules = Rules(
            beam=config.beam,
            token_floor=float(config.token_floor),
            cutoff=math.exp(-config.beam_range),
            space=-1 if space is None else space,
            end_word=self.language_model.end_word if self.language_model else 0,
            recombine=bool(self.guided and config.recombine),
            strict=bool(config.strict),
            alpha=alpha,
            word_bonus=word_bonus,
            unknown_log_prob=unknown_log_prob,
            first_node=0 if self.guided else -1,
            hot=self._hot,
            boost=boost,
            lift=self._hotwords.boost * (LIFT * max(word_bonus, 1.0) if self.guided else 1.0),
            small=len(self.vocabulary) <= MASK_SYMBOLS,
        )

    def warm_up(self) -> None:
        """Compile the search, which otherwise delays the first use by some seconds."""
        symbols = len(self.vocabulary)
        self.decode(np.full((2, symbols), -np.log(symbols), np.float32))
        self.partial(self.start())

    def start(self) -> BeamState:
        """The state before the first frame."""
        return BeamState(self._rules, self._begin_state)

    def advance(self, state: BeamState, log_probs: Any) -> None:
        """Read the next frames into `state`.

        `log_probs`: (T', V) array or tensor of normalized natural log-probabilities, T' >= 0.
        Raises `DecodeError` for anything else, and leaves the state as it was.
        """
        frames = check_log_probs(log_probs, len(self.vocabulary))
        if self._offsets is not None:
            frames = frames + self._offsets
        frames = np.require(frames, requirements=["C", "A", "W"])  # numba would compile for others
        done = 0
        while True:
            done = advance(
                frames, done, state.progress, state.texts, state.active, state.free,
                state.history, self._rules, self._lexicon, self._ngrams, self._hotwords,
            )  # fmt: skip
            if done == len(frames):
                return
            state.make_room()

    def partial(self, state: BeamState) -> tuple[str, str]:
        """The text so far in two parts: words that can no longer change, and those that may.

        The first are those that have ended in all texts of the beam alike, since all that is to
        come goes on from one of these texts. The time that it takes does not grow with them.
        """
        common, node, settled = find_settled(
            state.progress, state.texts, state.active, state.history, self._rules.space
        )
        ends = self._conclude(state)
        end = ends[ends["mass"].argmax()]
        words = self._read(state, end, 0.0, int(state.progress["settled"][0])).text.split(" ")
        stable = _join(state.settled, *words[:common])
        state.settled = _join(state.settled, *words[:settled])
        state.progress["settled"] = node
        return stable, _join(*words[common:])

    def best(self, state: BeamState) -> Hypothesis:
        """The hypothesis for the frames so far, as if they were all.

        Its `alternatives` are the next best, `nbest` - 1 of them where the beam holds so many.
        """
        ends = self._conclude(state)
        masses = ends["mass"]
        ranked = np.argsort(-masses, kind="stable")[: self.config.nbest]
        log_scale = float(state.progress["log_scale"][0])
        found = [
            self._read(state, ends[index], math.log(masses[index]) + log_scale)
            for index in ranked[masses[ranked] > 0]
        ]
        if not found:
            return Hypothesis("", (), 1.0, -math.inf)
        best, *others = found
        return Hypothesis(best.text, best.words, best.confidence, best.score, tuple(others))

    def decode(self, log_probs: Any) -> Hypothesis:
        """The hypothesis for one whole utterance: (T', V) as in `advance`."""
        state = self.start()
        self.advance(state, log_probs)
        return self.best(state)

    def decode_many(self, log_probs: Sequence[Any], threads: int = 1) -> list[Hypothesis]:
        """The hypotheses of whole utterances, in their order, the same for any number of threads."""
        if threads < 1:
            raise ConfigError(f"a beam decoder cannot work in {threads} threads: give 1 or more")
        if threads == 1:
            return [self.decode(matrix) for matrix in log_probs]
        with ThreadPoolExecutor(threads, thread_name_prefix="beam") as pool:
            return list(pool.map(self.decode, log_probs))

    def _calibrate(self, posteriors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The words' confidences, in [0, 1]; with the plain slope and offset, their posteriors."""
        sure = np.clip(posteriors, 1e-6, 1 - 1e-6)
        log_odds = np.log(sure / (1 - sure))
        fitted = self.config.confidence_slope * log_odds + self.config.confidence_offset
        return 1 / (1 + np.exp(-np.clip(fitted, -700, 700)))

    def _conclude(self, state: BeamState) -> npt.NDArray[np.void]:
        """What each text is worth if nothing comes any more: an array of END."""
        ends = np.zeros(int(state.progress["texts"][0]), END)
        conclude(
            state.progress, state.texts, state.active, ends, self._rules, self._lexicon,
            self._ngrams, self._hotwords,
        )  # fmt: skip
        return ends

    def _read(self, state: BeamState, end: Any, score: float, begin: int = 0) -> Hypothesis:
        """The text that a slot's history spells after the node `begin`, with times and confidence
        of its words.
        """
        room = int(state.progress["history"][0]) + 1
        letters = np.empty(room, np.uint32)
        firsts, lasts = np.empty(room, np.int64), np.empty(room, np.int64)
        posteriors = np.empty(room)
        length, count = trace(
            state.history, state.texts[end["slot"]], begin, max(self._rules.space, 0),
            self._code_points, letters, firsts, lasts, posteriors,
        )  # fmt: skip
        if not count:
            return Hypothesis("", (), 1.0, score)
        posteriors = posteriors[-count:]
        if count > 1 and posteriors[-2] < 0:
            posteriors[-2] = end["earlier_posterior"]
        posteriors[-1] = end["last_posterior"]
        confidences = self._calibrate(posteriors)
        starts = firsts[-count:] * self.frame_seconds
        ends = (lasts[-count:] + 1) * self.frame_seconds
        text = letters[-length:].tobytes().decode("utf-32-le")
        words = tuple(
            map(Word, text.split(" "), starts.tolist(), ends.tolist(), confidences.tolist())
        )
        if end["drop"] and state.texts["word"][end["slot"]]:
            words = words[:-1]
            text = " ".join([word.text for word in words])
        confidence = math.exp(np.log(confidences[: len(words)]).mean()) if words else 1.0
        return Hypothesis(text, words, confidence, score)


def _join(*parts: str) -> str:
    return " ".join([part for part in parts if part])


def _make_lexicon(
    vocabulary: Vocabulary,
    language_model: LanguageModel | None,
    lexicon: Sequence[str] | None,
    hotwords: Mapping[str, float],
) -> Nodes:
    """The words that may be spelled without paying for an unknown one."""
    if lexicon is not None:
        words = list(dict.fromkeys(lexicon))
        ids = [_word_id(language_model, word) if language_model else 0 for word in words]
    elif language_model is not None:
        special = {language_model.unknown_word, language_model.end_word}
        special.add(language_model.word_id("<s>"))
        ids = [i for i in range(len(language_model.words)) if i not in special]
        words = [language_model.words[i] for i in ids]
    else:
        return build_lexicon([], [], len(vocabulary))
    spellings, places = spell(words, vocabulary)
    word_ids = np.array(ids, dtype=np.int64)[places]
    # A hotword that the lexicon lacks: where it has the spelling too, the first one counts.
    extra, _ = spell([word for phrase in hotwords for word in phrase.split()], vocabulary)
    word_ids = np.append(word_ids, np.zeros(len(extra), np.int64))
    return build_lexicon(spellings + extra, word_ids.tolist(), len(vocabulary))


def _word_id(model: LanguageModel, word: str) -> int:
    """The model's id of a word in any of the three cases in which it may be spelled; 0: unknown."""
    return next(filter(None, map(model.word_id, (word, word.lower(), word.upper()))), 0)


def _unigram_log_probs(model: LanguageModel) -> npt.NDArray[np.float64]:
    ngrams, nodes = model.ngrams, slice(1, len(model.words) + 1)
    if len(ngrams.log_prob):
        return ngrams.log_prob[nodes].astype(np.float64)
    return ngrams.log_prob_book[ngrams.log_prob_code[nodes]].astype(np.float64)


def _no_hotwords(vocabulary: Vocabulary) -> Hotwords:
    column = np.zeros(len(vocabulary), np.int32)
    return Hotwords(np.zeros((1, 1), np.int32), column, np.ones((1, 2)), 1.0)


def _empty_ngrams() -> NGrams:
    """A model of one word, unknown and certain, which charges nothing."""
    ints, floats, codes = np.zeros(2, np.int32), np.zeros(2, np.float32), np.zeros(0, np.uint16)
    first_child = np.array([1, 2], np.int32)
    nothing = np.zeros(0, np.float32)
    return NGrams(first_child, ints, ints, floats, floats[:1], codes, codes, nothing, nothing)
