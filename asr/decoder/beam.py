"""Prefix beam search for CTC with language model, lexicon and hotwords, compiled by numba.

    decoder = BeamDecoder(vocabulary, 0.04, DecoderConfig("beam"), language_model)
    hypothesis = decoder.decode(log_probs)        # (T', V)
    hypotheses = decoder.decode_many(list_of_log_probs, threads=2)

The search looks for the text that maximizes

    score = log p_ctc(text) + alpha * log p_lm(text) + beta * words + unknown * unknown words
            + the bonuses of the hotwords in it

where p_ctc sums over all alignments (Graves et al. 2006), and p_lm is the probability of the n-gram
model, including the end of the sentence. The network also learns a prior over symbols, which
the language model estimates better. So `prior` times the log prior of each symbol, relative to that of
the blank, is subtracted from its log-probabilities first (as in Miao et al. 2015, "EESEN"). The
search is that of Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition
using Bi-Directional Recurrent DNNs", with five additions:

- Out-of-vocabulary words are allowed with the penalty `unknown`, unless `strict` is set.
- A partial word is scored with the best unigram among its completions in the lexicon until it is
  complete (look-ahead).
- Of prefixes that agree in the state of the language model, the letters of the open word and the
  state of the hotwords, only the best is kept, because they score all continuations alike
  (recombination).
- Probabilities are kept in linear scale, relative to the best prefix of each frame.
- A frame in which only the blank is likely costs almost nothing.

The result is bit-identical however the frames are split into calls.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decoder import search
from asr.decoder.config import Decoder, DecoderConfig, check_log_probs
from asr.decoder.hotwords import Hotwords, build_hotwords
from asr.decoder.hypothesis import Hypothesis, Word
from asr.decoder.lexicon import MASK_SYMBOLS, Nodes, build_lexicon, look_ahead, spell
from asr.errors import ConfigError
from asr.lm.model import LanguageModel
from asr.lm.ngrams import BEGIN_WORD, END_WORD, UNKNOWN_WORD, NGrams
from asr.text import Vocabulary

FIRST_HISTORY = 4096
"""Initial number of history nodes of a stream; doubled whenever half of them are still needed."""


class BeamState:
    """The state of a `BeamDecoder` after the frames so far; each stream needs its own."""

    def __init__(self, rules: search.Rules, begin_state: int) -> None:
        slots = 2 * rules.beam + 2  # room for the prefixes of two frames
        prefixes = np.zeros(slots, search.PREFIX)
        empty = prefixes[0]
        empty["p_blank"], empty["word_factor"] = 1.0, np.nan
        empty["last_symbol"] = max(rules.space, 0)  # so that a leading space changes nothing
        empty["lm_state"], empty["lexicon_node"] = begin_state, rules.first_node
        empty["hash"] = empty["key"] = search.EMPTY_HASH
        progress = np.zeros(1, search.PROGRESS)
        progress["prefixes"], progress["free"], progress["history"] = 1, slots - 1, 1
        active, free = np.zeros(rules.beam, np.int32), np.arange(slots - 1, -1, -1, dtype=np.int32)
        history = np.empty(FIRST_HISTORY + 4 * slots, search.HISTORY)
        self.beam = search.Beam(prefixes, active, free, history, progress)
        self.settled = ""  # text up to the settled node

    @property
    def frames(self) -> int:
        """Number of frames read."""
        return int(self.beam.progress["frames"][0])

    def make_room(self) -> None:
        """Drop history that is no longer needed; double the array if it is still half full."""
        search.compact_history(self.beam)
        history = self.beam.history
        if 2 * self.beam.progress["history"][0] > len(history):
            longer = np.empty(2 * len(history), search.HISTORY)
            longer[: len(history)] = history  # np.concatenate takes five times as long for records
            self.beam = self.beam._replace(history=longer)


class BeamDecoder(Decoder):
    """Prefix beam search; the module's docstring defines what it maximizes.

    - A word starts with the frame in which most of the probability first emits its first symbol,
      and ends with the last frame in which its last symbol is more probable than the blank.
    - The confidence of a word is calibrated from its posterior: the share of the beam's probability
      that agrees on the word when the next word ends (see `DecoderConfig`). The confidence of the
      hypothesis is the geometric mean over its words, and 1 if there are none.

    A decoder can serve any number of streams and threads, because decoding never changes it.

    Args:
        vocabulary: Symbols of the model; symbol 0 is the blank.
        frame_seconds: Duration of an encoder frame in seconds.
        config: Settings; `DecoderConfig("beam")` if None. Its file names are not read here.
        language_model: N-gram model of words. Its words are the lexicon unless `lexicon` is given.
        lexicon: Known words. Those that the language model lacks count as its unknown word. Without
            a language model, the score has the terms `beta` and `unknown`, but not `alpha`.
        hotwords: Words and phrases, and the bonus in nats that each occurrence earns for each of
            its words. Hotwords are exempt from `unknown`.

    Raises:
        ConfigError: If settings do not fit each other or the vocabulary.
        TextError: If a hotword cannot be spelled.

    Example:
        decoder = BeamDecoder(vocabulary, 0.04, DecoderConfig("beam", nbest=5), language_model)
        texts = [hypothesis.text for hypothesis in decoder.decode_many(log_probs, threads=2)]
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
                "a language model or lexicon needs a vocabulary with a space, which separates words"
            )
        if not 0 < frame_seconds < math.inf:
            raise ConfigError(
                f"frame_seconds is {frame_seconds}; a frame must last a positive number of seconds"
            )
        self.vocabulary = vocabulary
        self.frame_seconds = frame_seconds
        self.language_model = language_model
        self._code_points = np.array([0, *map(ord, vocabulary.symbols[1:])], np.uint32)
        self._ngrams = language_model.ngrams if language_model else _empty_ngrams()
        self._begin_state = language_model.begin_state if language_model else 0
        self.uses_words = language_model is not None or lexicon is not None
        self._plain_lexicon = _make_lexicon(vocabulary, language_model, lexicon, hotwords or {})
        self._hot = bool(hotwords)
        self._hotwords = (
            build_hotwords(hotwords, vocabulary) if hotwords else _no_hotwords(vocabulary)
        )
        self._configure(config or DecoderConfig("beam"))

    def configured(self, config: DecoderConfig) -> "BeamDecoder":
        """A decoder with other settings that shares the model, lexicon and hotwords of this one."""
        other = copy(self)
        other._configure(config)
        return other

    def _configure(self, config: DecoderConfig) -> None:
        if config.kind != "beam":
            raise ConfigError(f"decoder.kind is {config.kind!r}; a beam decoder needs 'beam'")
        if config.strict and not self.uses_words:
            raise ConfigError("a strict decoder needs a language model or a lexicon; specify one")
        if config.priors and len(config.priors) != len(self.vocabulary):
            raise ConfigError(
                f"decoder.priors contains {len(config.priors)} values for a vocabulary of "
                f"{len(self.vocabulary)} symbols; run `asr tune` with this checkpoint"
            )
        self.config = config
        self._offsets = None
        if config.prior and self.uses_words:
            # Relative to the blank, so that the probability of silence does not change.
            logs = np.log(np.array(config.priors))
            self._offsets = (config.prior * (logs[0] - logs)).astype(np.float32)  # (V,)
        alpha, unknown_log_prob, log_probs = 0.0, 0.0, np.zeros(1)
        if self.language_model is not None:
            alpha = float(config.alpha)
            log_probs = _unigram_log_probs(self.language_model)
            unknown_log_prob = float(log_probs[self.language_model.unknown_word])
        lexicon = look_ahead(
            self._plain_lexicon, log_probs, alpha, unknown_log_prob, config.unknown
        )
        word_bonus = math.exp(config.beta) if self.uses_words else 1.0
        # The factor for leaving the lexicon can exceed 1; LIFT is assumed to bound it.
        leave = float(lexicon["leave"].max()) if self.uses_words else 1.0
        lift = search.LIFT * max(word_bonus, 1.0) if self.uses_words else 1.0
        space = self.vocabulary.space
        rules = search.Rules(
            beam=config.beam,
            token_floor=float(config.token_floor),
            cutoff=math.exp(-config.beam_range),
            space=-1 if space is None else space,
            end_word=self.language_model.end_word if self.language_model else 0,
            recombine=bool(self.uses_words and config.recombine),
            strict=bool(config.strict),
            alpha=alpha,
            word_bonus=word_bonus,
            unknown_log_prob=unknown_log_prob,
            first_node=0 if self.uses_words else -1,
            hot=self._hot,
            boost=self._hotwords.boost * min(max(leave, 1.0), search.LIFT),
            lift=self._hotwords.boost * lift,
            small=len(self.vocabulary) <= MASK_SYMBOLS,
        )
        self._scorer = search.Scorer(rules, lexicon, self._ngrams, self._hotwords)

    def warm_up(self) -> None:
        """Compile the search, which otherwise delays the first use by some seconds."""
        symbols = len(self.vocabulary)
        self.decode(np.full((2, symbols), -np.log(symbols), np.float32))
        self.partial(self.start())

    def start(self) -> BeamState:
        """The state before the first frame."""
        return BeamState(self._scorer.rules, self._begin_state)

    def advance(self, state: BeamState, log_probs: Any) -> None:
        """Read the next frames into `state`.

        Args:
            state: State of the stream, changed in place.
            log_probs: (T', V) array or tensor of normalized natural log-probabilities, T' >= 0.

        Raises:
            DecodeError: If `log_probs` is anything else; the state is then unchanged.
        """
        frames = check_log_probs(log_probs, len(self.vocabulary))  # (T', V)
        if self._offsets is not None:
            frames = frames + self._offsets
        # numba would compile another version for arrays with other flags.
        frames = np.require(frames, requirements=["C", "A", "W"])
        done = 0
        while (done := search.read_frames(frames, done, state.beam, self._scorer)) < len(frames):
            state.make_room()

    def partial(self, state: BeamState) -> tuple[str, str]:
        """The text so far in two parts: the words that are final, and those that may change.

        Words are final once they have ended alike in all prefixes of the beam, because every later
        result extends one of these. The time this takes does not grow with the final words.
        """
        common, node, settled = search.find_settled(state.beam, self._scorer.rules.space)
        finals = self._finish(state)
        final = finals[finals["probability"].argmax()]
        begin = int(state.beam.progress["settled"][0])
        words = self._read(state, final, 0.0, begin).text.split(" ")
        stable = _join_texts(state.settled, *words[:common])
        state.settled = _join_texts(state.settled, *words[:settled])
        state.beam.progress["settled"] = node
        return stable, _join_texts(*words[common:])

    def best(self, state: BeamState) -> Hypothesis:
        """The hypothesis if the utterance ends now.

        Its `alternatives` are the next best, up to `nbest` - 1 of them.
        """
        finals = self._finish(state)
        probabilities = finals["probability"]
        ranked = np.argsort(-probabilities, kind="stable")[: self.config.nbest]
        log_scale = float(state.beam.progress["log_scale"][0])
        found = [
            self._read(state, finals[index], math.log(probabilities[index]) + log_scale)
            for index in ranked[probabilities[ranked] > 0]
        ]
        if not found:
            return Hypothesis("", (), 1.0, -math.inf)
        return replace(found[0], alternatives=tuple(found[1:]))

    def decode_many(self, log_probs: Sequence[Any], threads: int = 1) -> list[Hypothesis]:
        """The hypotheses of whole utterances, in order; they do not depend on `threads`.

        Args:
            log_probs: One (T', V) matrix per utterance, as in `advance`.
            threads: Number of threads to decode in.
        """
        if threads < 1:
            raise ConfigError(f"threads is {threads}; it must be 1 or more")
        if threads == 1:
            return [self.decode(matrix) for matrix in log_probs]
        with ThreadPoolExecutor(threads, thread_name_prefix="beam") as pool:
            return list(pool.map(self.decode, log_probs))

    def _calibrate(self, posteriors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Turn posteriors (W,) into confidences in [0, 1]."""
        bounded = np.clip(posteriors, 1e-6, 1 - 1e-6)
        log_odds = np.log(bounded / (1 - bounded))
        fitted = self.config.confidence_slope * log_odds + self.config.confidence_offset
        return 1 / (1 + np.exp(-np.clip(fitted, -700, 700)))

    def _finish(self, state: BeamState) -> npt.NDArray[np.void]:
        """The results of all prefixes if the utterance ends now: an array of FINAL."""
        finals = np.zeros(int(state.beam.progress["prefixes"][0]), search.FINAL)
        search.finish(state.beam, finals, self._scorer)
        return finals

    def _read(self, state: BeamState, final: Any, score: float, begin: int = 0) -> Hypothesis:
        """The hypothesis of one final result, with the words after the history node `begin`."""
        beam = state.beam
        room = int(beam.progress["history"][0]) + 1
        letters, posteriors = np.empty(room, np.uint32), np.empty(room)
        first_frames, last_frames = np.empty((2, room), np.int64)
        prefix = beam.prefixes[final["slot"]]
        separator = max(self._scorer.rules.space, 0)
        length, count = search.trace_words(
            beam.history, prefix, begin, separator, self._code_points, letters, first_frames,
            last_frames, posteriors,
        )  # fmt: skip
        if not count:
            return Hypothesis("", (), 1.0, score)
        posteriors = posteriors[-count:]
        if count > 1 and posteriors[-2] < 0:
            posteriors[-2] = final["earlier_posterior"]
        posteriors[-1] = final["last_posterior"]
        confidences = self._calibrate(posteriors)
        starts = first_frames[-count:] * self.frame_seconds
        ends = (last_frames[-count:] + 1) * self.frame_seconds
        text = letters[-length:].tobytes().decode("utf-32-le")
        words = tuple(
            map(Word, text.split(" "), starts.tolist(), ends.tolist(), confidences.tolist())
        )
        if final["drop"] and prefix["open_word"]:
            words = words[:-1]
            text = " ".join([word.text for word in words])
        confidence = math.exp(np.log(confidences[: len(words)]).mean()) if words else 1.0
        return Hypothesis(text, words, confidence, score)


def _join_texts(*parts: str) -> str:
    return " ".join([part for part in parts if part])


def _make_lexicon(
    vocabulary: Vocabulary,
    language_model: LanguageModel | None,
    lexicon: Sequence[str] | None,
    hotwords: Mapping[str, float],
) -> Nodes:
    """The lexicon: all words that are exempt from the unknown-word penalty."""
    if lexicon is not None:
        words = list(dict.fromkeys(lexicon))
        ids = [_word_id(language_model, word) if language_model else 0 for word in words]
    elif language_model is not None:
        special = set(map(language_model.word_id, (UNKNOWN_WORD, BEGIN_WORD, END_WORD)))
        ids = [i for i in range(len(language_model.words)) if i not in special]
        words = [language_model.words[i] for i in ids]
    else:
        return build_lexicon([], [], len(vocabulary))
    spellings, places = spell(words, vocabulary)
    # Hotwords come last, so that a word of the lexicon with the same spelling takes precedence.
    extra, _ = spell([word for phrase in hotwords for word in phrase.split()], vocabulary)
    word_ids = [ids[place] for place in places] + [0] * len(extra)
    return build_lexicon(spellings + extra, word_ids, len(vocabulary))


def _word_id(model: LanguageModel, word: str) -> int:
    """The model's id of a word as given, in lower or in upper case; 0 if it is unknown."""
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
    """A model whose only word is the unknown one, with probability 1."""
    ints, floats = np.zeros(2, np.int32), np.zeros(2, np.float32)
    return NGrams(np.array([1, 2], np.int32), ints, ints, floats, floats[:1])
