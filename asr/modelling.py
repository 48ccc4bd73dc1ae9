"""What the commands `asr lm ...` do: language models are made, described, measured and converted.

Each function returns facts to print. A model's file is written as its name says: ARPA where it
ends in .arpa or .arpa.gz, else the binary of `asr.language`.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic

from rich.filesize import decimal

from asr.errors import AsrError
from asr.estimation import (
    STANDARD_INPUT,
    EstimationConfig,
    EstimationWarning,
    estimate,
    read_sentences,
)
from asr.files import check_writable
from asr.language import LanguageModel, find_kind
from asr.progress import Bar, complain

ARPA_ENDINGS = (".arpa", ".arpa.gz")
RESERVED_WORDS = 3  # <unk>, <s> and </s> are in every vocabulary
MANY_SENTENCES = 10_000  # worth showing that something goes on

Facts = dict[str, object]


def train(
    texts: Sequence[str], config: EstimationConfig, output: Path, quantise: bool = False
) -> Facts:
    """Estimate a model of the text files `texts` and write it to `output`.

    Raises AsrError before any work where `output` cannot be meant, and for texts that do not fit
    into the memory; TextError for texts that `read_sentences` or `estimate` refuse.
    """
    _check_output(output, texts, quantise)
    sentences = _read_texts(texts)
    began = monotonic()
    with (
        # Reading, counting each order, computing, arranging, writing.
        Bar("training", config.order + 4, "stages") as bar,
        warnings.catch_warnings(record=True, action="always", category=EstimationWarning) as caught,
    ):
        training = _Training(bar)
        try:
            model = estimate(training.count(sentences), config, training.begin)
        except MemoryError:
            raise AsrError(
                "The n-grams of the text do not fit into the memory; give less text or a lower "
                "order."
            ) from None
        training.begin("writing the model")
        _write_model(model, output, quantise)
        training.begin("done")
    for warning in caught:
        complain(f"asr: {warning.message}.")
    return {
        "sentences": training.sentences,
        "words": training.words,
        **_contents(model),
        "file": _describe_file(output),
        "time": f"{monotonic() - began:.1f} s",
    }


def describe(path: Path) -> Facts:
    """What kind of model a file holds, and how large it is. Raises LanguageError."""
    model = LanguageModel.read(path)
    return {
        "kind": find_kind(path),
        "order": model.order,
        **_contents(model),
        "quantised": model.quantised,
        "size on disk": decimal(path.stat().st_size),
        "memory": decimal(model.memory_bytes),
    }


def measure(path: Path, texts: Sequence[str]) -> Facts:
    """The perplexity of a model's file on text files. Raises LanguageError and TextError."""
    sentences = _read_texts(texts)
    measured = LanguageModel.read(path).perplexity(_shown(sentences))
    unknown = 100 * measured.unknown / measured.words
    return {
        "perplexity": measured.perplexity,
        "perplexity of known words": measured.perplexity_known,
        "words": f"{measured.words:,}, of which {measured.sentences:,} are </s>",
        "unknown words": f"{measured.unknown:,} ({unknown:.2f} %)",
        "sentences": measured.sentences,
    }


def convert(source: Path, output: Path, quantise: bool = False) -> Facts:
    """Write the model in a file to another one. Raises as `train` does, and LanguageError."""
    _check_output(output, [str(source)], quantise)
    model = LanguageModel.read(source)
    _write_model(model, output, quantise)
    return {"read": _describe_file(source), "written": _describe_file(output)}


class _Training:
    """Shows the stages of a training in a bar, and counts the text while it is read."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.stages = 0  # begun
        self.sentences = 0
        self.words = 0

    def begin(self, stage: str) -> None:
        self.bar.advance(min(self.stages, 1), note=stage)  # what was begun before is now done
        self.stages += 1

    def count(self, sentences: Iterable[str]) -> Iterator[str]:
        for sentence in sentences:
            self.sentences += 1
            self.words += len(sentence.split())
            if self.sentences % MANY_SENTENCES == 0:
                self.bar.advance(0, note=f"reading the text: {self.sentences:,} sentences")
            yield sentence


def _shown(sentences: Iterator[str]) -> Iterator[str]:
    """The sentences, with a bar as soon as there are many."""
    first = list(islice(sentences, MANY_SENTENCES))
    yield from first
    if len(first) < MANY_SENTENCES:
        return
    with Bar("measuring", None, "sentences", done=len(first)) as bar:
        while more := list(islice(sentences, MANY_SENTENCES)):
            yield from more
            bar.advance(len(more))


def _read_texts(names: Sequence[str]) -> Iterator[str]:
    if names.count(STANDARD_INPUT) > 1:
        raise AsrError("Standard input (-) can be read only once; name it once.")
    return read_sentences(names)


def _check_output(output: Path, sources: Sequence[str], quantise: bool) -> None:
    """Refuse, before any work is done, an output that cannot be meant or cannot be written."""
    if quantise and output.name.endswith(ARPA_ENDINGS):
        raise AsrError(
            f"{output} would be ARPA, which is never quantised; omit --quantise, or give the "
            "file another ending."
        )
    if output.suffix == ".gz" and not output.name.endswith(ARPA_ENDINGS):
        raise AsrError(
            f"{output} would be a binary, which is never compressed; let its name end in .arpa.gz "
            "for ARPA, or not in .gz."
        )
    if output.exists() and not output.is_file():
        raise AsrError(f"{output} is a folder or a device; name a file.")
    for source in sources:
        there = source != STANDARD_INPUT and os.path.exists(source) and output.exists()
        if there and output.samefile(source):
            raise AsrError(f"{output} would be written over {source}; name another file.")
    check_writable(output)


def _write_model(model: LanguageModel, output: Path, quantise: bool) -> None:
    if output.name.endswith(ARPA_ENDINGS):
        model.write_arpa(output)
    else:
        model.write(output, quantise)


def _contents(model: LanguageModel) -> Facts:
    orders = {f"{order}-grams": count for order, count in enumerate(model.counts, start=1)}
    return {"vocabulary": model.counts[0] - RESERVED_WORDS, **orders}


def _describe_file(path: Path) -> str:
    return f"{path} ({find_kind(path)}, {decimal(path.stat().st_size)})"
