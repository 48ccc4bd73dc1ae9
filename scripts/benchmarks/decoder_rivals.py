"""The rivals of `decoder.py`, each in its own process; requests and answers are lines of JSON.

    python decoder_rivals.py {pyctcdecode,flashlight,fast-ctc-decode} FOLDER

This module runs in the rival's environment, so it imports only NumPy and the rival, never `asr`.
FOLDER holds the input that `decoder.py` wrote for all decoders: log_probs.npy (frames of all
utterances, V), frames.npy (number of frames of each utterance), symbols.json, words.txt and lm.arpa.

A request names utterances and settings; the answer holds their texts and the seconds that the
decoding calls took. Loading, preparation of the input and a warm-up happen before the clock starts,
and the conversion of results into text after it stops.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BLANK, SPACE = 0, 1

Decode = Callable[[Sequence[Any]], Sequence[Any]]


class Served(Protocol):
    """The interface of a decoder that `serve` runs; `packages` are reported with their versions."""

    packages: Sequence[str]

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        """The decoder's own input form of one utterance's log-probabilities (T, V)."""

    def configure(self, settings: dict[str, Any]) -> Decode:
        """The function that decodes a list of prepared utterances."""

    def text(self, result: Any) -> str:
        """The words of one result, separated by spaces."""


class PyCtcDecode:
    """pyctcdecode with KenLM, pruning beams at its default of -10.

    It converts KenLM's log10 to natural logarithms, so `alpha` has the same meaning as in ours.
    """

    packages: Sequence[str] = ("pyctcdecode", "kenlm", "numpy")

    def __init__(self, folder: Path) -> None:
        from pyctcdecode import build_ctcdecoder

        symbols = read_symbols(folder)
        self.decoder = build_ctcdecoder(
            ["", *symbols[1:]], str(folder / "lm.arpa"), unigrams=read_words(folder)
        )

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        return log_probs

    def configure(self, settings: dict[str, Any]) -> Decode:
        from pyctcdecode.constants import DEFAULT_UNK_LOGP_OFFSET

        self.decoder.reset_params(
            alpha=settings["alpha"],
            beta=settings["beta"],
            unk_score_offset=settings.get("unknown", DEFAULT_UNK_LOGP_OFFSET),
        )
        return lambda matrices: [
            self.decoder.decode(
                matrix, beam_width=settings["beam"], token_min_logp=settings["token_floor"]
            )
            for matrix in matrices
        ]

    def text(self, result: str) -> str:
        return result


class Flashlight:
    """flashlight-text's lexicon decoder with KenLM, set up as its documentation shows.

    - It adds KenLM's log10 scores unscaled, so `alpha`, which is for natural logarithms, is
      multiplied by ln 10.
    - The spelling of a word ends with a space, as in wav2letter's lexicons. A frame that is certainly
      a space is appended to each utterance, because the last word can otherwise be lost.
    - `log_add` is off, as in torchaudio and fairseq (turning it on changed no WER by more than 0.05).
    - Without a score for unknown words (torchaudio's default) it emits only words of the lexicon.
      With one, an unknown word is the beginning of a known one, and its letters are taken as emitted.
    """

    packages: Sequence[str] = ("flashlight-text", "kenlm", "numpy")

    def __init__(self, folder: Path) -> None:
        from flashlight.lib.text.decoder import SmearingMode, Trie
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        self.symbols = read_symbols(folder)
        ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        words = read_words(folder)
        dictionary = Dictionary()
        for word in [*words, "<unk>"]:
            dictionary.add_entry(word)
        self.unknown_word = dictionary.get_index("<unk>")
        self.language_model = KenLM(str(folder / "lm.arpa"), dictionary)
        self.trie = Trie(len(self.symbols), SPACE)
        start = self.language_model.start(False)
        for word in words:
            index = dictionary.get_index(word)
            _, log10_prob = self.language_model.score(start, index)
            self.trie.insert([*(ids[letter] for letter in word), SPACE], index, log10_prob)
        self.trie.smear(SmearingMode.MAX)

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        space = np.full((1, log_probs.shape[1]), -30.0, np.float32)
        space[0, SPACE] = 0.0
        return np.concatenate([log_probs, space])

    def configure(self, settings: dict[str, Any]) -> Decode:
        from flashlight.lib.text.decoder import (
            CriterionType,
            LexiconDecoder,
            LexiconDecoderOptions,
        )

        options = LexiconDecoderOptions(
            settings["beam"],
            settings["tokens"],
            settings["threshold"],
            settings["alpha"] * math.log(10),
            settings["beta"],
            settings.get("unknown", -math.inf),
            0.0,  # the score of a silence
            False,  # log_add
            CriterionType.CTC,
        )
        decoder = LexiconDecoder(
            options, self.trie, self.language_model, SPACE, BLANK, self.unknown_word, [], False
        )
        return lambda matrices: [
            decoder.decode(matrix.ctypes.data, *matrix.shape)[0].tokens for matrix in matrices
        ]

    def text(self, result: list[int]) -> str:
        folded = [
            symbol
            for symbol, before in zip(result, [BLANK, *result], strict=False)
            if symbol not in (before, BLANK) and symbol >= 0
        ]
        return " ".join("".join([self.symbols[symbol] for symbol in folded]).split())


class FastCtcDecode:
    """fast-ctc-decode, which has no language model and reads probabilities."""

    packages: Sequence[str] = ("fast-ctc-decode", "numpy")

    def __init__(self, folder: Path) -> None:
        self.alphabet = "".join(["_", *read_symbols(folder)[1:]])

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        return np.exp(log_probs)

    def configure(self, settings: dict[str, Any]) -> Decode:
        from fast_ctc_decode import beam_search

        beam = settings["beam"]
        cut = math.exp(settings["token_floor"]) if settings["cut"] else 0.0
        return lambda matrices: [
            beam_search(matrix, self.alphabet, beam, cut)[0] for matrix in matrices
        ]

    def text(self, result: str) -> str:
        return " ".join(result.split())


RIVALS: dict[str, Callable[[Path], Served]] = {
    "pyctcdecode": PyCtcDecode,
    "flashlight": Flashlight,
    "fast-ctc-decode": FastCtcDecode,
}


def read_symbols(folder: Path) -> list[str]:
    symbols: list[str] = json.loads((folder / "symbols.json").read_text(encoding="utf-8"))
    return symbols


def read_words(folder: Path) -> list[str]:
    return (folder / "words.txt").read_text(encoding="utf-8").split("\n")


def serve(make: Callable[[Path], Served], folder: Path) -> None:
    """Report the versions, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps the decoder's own output out of the answers
    decoder = make(folder)
    ends = np.cumsum(np.load(folder / "frames.npy"))
    log_probs = np.load(folder / "log_probs.npy")
    inputs = [
        np.ascontiguousarray(decoder.prepare(matrix)) for matrix in np.split(log_probs, ends[:-1])
    ]
    versions = {package: version(package) for package in decoder.packages}
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        matrices = [inputs[index] for index in request["utterances"]]
        decode = decoder.configure(request["settings"])
        decode(matrices[:1])
        times, cpu, wall = 0, 0.0, 0.0
        while times == 0 or cpu < request["min_seconds"]:
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            results = decode(matrices)
            cpu += time.process_time() - cpu_start
            wall += time.perf_counter() - wall_start
            times += 1
        answer = {
            "cpu_seconds": cpu / times,
            "wall_seconds": wall / times,
            "texts": [decoder.text(result) for result in results],
        }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    serve(RIVALS[sys.argv[1]], Path(sys.argv[2]))
