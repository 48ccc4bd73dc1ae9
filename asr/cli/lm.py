"""The commands `asr lm ...`: train, describe, measure and convert n-gram language models.

The output format follows the file extension: ARPA for .arpa and .arpa.gz, otherwise the binary
format of `asr.lm.model`.
"""

import argparse
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from asr.cli.options import positive
from asr.cli.output import print_facts
from asr.errors import AsrError
from asr.files import check_writable
from asr.progress import Bar, complain

if TYPE_CHECKING:
    from asr.lm.estimation import EstimationConfig
    from asr.lm.model import LanguageModel

ARPA_ENDINGS = (".arpa", ".arpa.gz")
RESERVED_WORDS = 3  # <unk>, <s> and </s> are in every vocabulary
MANY_SENTENCES = 10_000  # number of sentences after which progress is shown

Facts = dict[str, object]


def declare(command: argparse.ArgumentParser) -> None:
    """Add the commands of `asr lm`."""
    commands = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, declare_one, run_one in (
        ("train", "train an n-gram model on text", _declare_train, _run_train),
        ("info", "describe a language model", _declare_info, _run_info),
        (
            "perplexity",
            "measure the perplexity of a model on text",
            _declare_perplexity,
            _run_perplexity,
        ),
        ("convert", "convert ARPA to a fast binary, or back", _declare_convert, _run_convert),
    ):
        description = f"{summary[0].upper()}{summary[1:]}."
        one = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        one.set_defaults(run_lm=run_one, parser=one)
        declare_one(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the command of `asr lm` that was chosen and return the exit code. Raises AsrError."""
    facts: Facts = arguments.run_lm(arguments)
    print_facts(facts)
    return 0


def _declare_train(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    command.add_argument(
        "--order",
        type=positive,
        default=3,
        metavar="N",
        help="number of words in the longest n-grams, 1 to 5 (default: 3)",
    )
    command.add_argument(
        "--prune",
        type=_count,
        nargs="+",
        default=[0],
        metavar="N",
        help="drop n-grams that occur at most N times; give one count per order, such as 0 0 1; "
        "the last one applies to all higher orders (default: 0, drop none)",
    )
    command.add_argument(
        "--vocabulary-limit",
        type=positive,
        metavar="N",
        help="keep only the N most frequent words (default: all)",
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of the model: ARPA if its name ends in .arpa or .arpa.gz, otherwise binary",
    )
    _add_quantize_option(command)


def _declare_info(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)


def _declare_perplexity(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)
    _add_texts(command)


def _declare_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", type=Path, metavar="IN", help="language model: ARPA (also in gzip) or binary"
    )
    command.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="file to write: ARPA if its name ends in .arpa or .arpa.gz, otherwise binary",
    )
    _add_quantize_option(command)


def _add_language_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", type=Path, metavar="FILE", help="language model: ARPA (also in gzip) or binary"
    )


def _add_texts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="UTF-8 text with one sentence per line, plain or in gzip, or - for standard input",
    )


def _add_quantize_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantize",
        "--quantise",
        action="store_true",
        help="write a smaller binary with quantized probabilities",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; end the list with an option")
    return int(text)


def _run_train(arguments: argparse.Namespace) -> Facts:
    from asr.lm.estimation import EstimationConfig

    config = EstimationConfig(arguments.order, arguments.prune, arguments.vocabulary_limit)
    return train(arguments.texts, config, arguments.output, arguments.quantize)


def _run_info(arguments: argparse.Namespace) -> Facts:
    return describe(arguments.model)


def _run_perplexity(arguments: argparse.Namespace) -> Facts:
    return measure(arguments.model, arguments.texts)


def _run_convert(arguments: argparse.Namespace) -> Facts:
    return convert(arguments.source, arguments.output, arguments.quantize)


def train(
    texts: Sequence[str], config: "EstimationConfig", output: Path, quantize: bool = False
) -> Facts:
    """Train a model on the text files `texts`, write it to `output` and return facts about it.

    Raises AsrError if `output` is invalid (before any work) or the texts do not fit into memory, and
    the TextErrors of `read_sentences` and `LanguageModel.estimate`.
    """
    from asr.lm.estimation import EstimationWarning
    from asr.lm.model import LanguageModel

    _check_output(output, texts, quantize)
    sentences = _read_texts(texts)
    began = monotonic()
    with (
        # One stage each for reading, computing, arranging and writing, and one to count each order.
        Bar("training", config.order + 4, "stages") as bar,
        warnings.catch_warnings(record=True, action="always", category=EstimationWarning) as caught,
    ):
        stages = _Stages(bar)
        try:
            model = LanguageModel.estimate(
                stages.count(sentences),
                config.order,
                config.prune,
                config.vocabulary_limit,
                on_progress=stages.begin,
            )
        except MemoryError:
            raise AsrError(
                "the n-grams of the text do not fit into memory; use less text or a lower order"
            ) from None
        stages.begin("writing the model")
        _write_model(model, output, quantize)
        stages.begin("done")
    for warning in caught:
        complain(f"asr: {warning.message}.")
    return {
        "sentences": stages.sentences,
        "words": stages.words,
        **_contents(model),
        "file": _describe_file(output),
        "time": f"{monotonic() - began:.1f} s",
    }


def describe(path: Path) -> Facts:
    """Facts about the model in a file: its format, order and size. Raises LanguageError."""
    from rich.filesize import decimal

    from asr.lm.model import LanguageModel, find_kind

    model = LanguageModel.read(path)
    return {
        "kind": find_kind(path),
        "order": model.order,
        **_contents(model),
        "quantized": model.quantized,
        "size on disk": decimal(path.stat().st_size),
        "memory": decimal(model.memory_bytes),
    }


def measure(path: Path, texts: Sequence[str]) -> Facts:
    """The perplexity of a model on text files. Raises LanguageError and TextError."""
    from asr.lm.model import LanguageModel

    sentences = _read_texts(texts)
    measured = LanguageModel.read(path).perplexity(_track_many(sentences))
    unknown = 100 * measured.unknown / measured.words
    return {
        "perplexity": measured.perplexity,
        "perplexity of known words": measured.perplexity_known,
        "words": f"{measured.words:,}, of which {measured.sentences:,} are </s>",
        "unknown words": f"{measured.unknown:,} ({unknown:.2f} %)",
        "sentences": measured.sentences,
    }


def convert(source: Path, output: Path, quantize: bool = False) -> Facts:
    """Write the model in a file to another one. Raises LanguageError, and AsrError as `train`."""
    from asr.lm.model import LanguageModel

    _check_output(output, [str(source)], quantize)
    model = LanguageModel.read(source)
    _write_model(model, output, quantize)
    return {"read": _describe_file(source), "written": _describe_file(output)}


class _Stages:
    """Shows the stages of the estimation in a bar, and counts the text while it is read."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.begun = 0  # number of stages
        self.sentences = 0
        self.words = 0

    def begin(self, stage: str) -> None:
        self.bar.advance(min(self.begun, 1), note=stage)  # the stage before is done
        self.begun += 1

    def count(self, sentences: Iterable[str]) -> Iterator[str]:
        for sentence in sentences:
            self.sentences += 1
            self.words += len(sentence.split())
            if self.sentences % MANY_SENTENCES == 0:
                self.bar.advance(0, note=f"reading the text: {self.sentences:,} sentences")
            yield sentence


def _track_many(sentences: Iterator[str]) -> Iterator[str]:
    """Yield the sentences, with a bar once there are many."""
    first = list(islice(sentences, MANY_SENTENCES))
    yield from first
    if len(first) < MANY_SENTENCES:
        return
    with Bar("measuring", None, "sentences", done=len(first)) as bar:
        while more := list(islice(sentences, MANY_SENTENCES)):
            yield from more
            bar.advance(len(more))


def _read_texts(names: Sequence[str]) -> Iterator[str]:
    from asr.lm.estimation import read_sentences

    if names.count("-") > 1:
        raise AsrError("standard input (-) can be read only once; pass it once")
    return read_sentences(names)


def _check_output(output: Path, sources: Sequence[str], quantize: bool) -> None:
    """Raise AsrError before any work for an output that is invalid or cannot be written."""
    if quantize and output.name.endswith(ARPA_ENDINGS):
        raise AsrError(
            f"{output} would be ARPA, which is never quantized; omit --quantize, or use "
            "another extension"
        )
    if output.suffix == ".gz" and not output.name.endswith(ARPA_ENDINGS):
        raise AsrError(
            f"{output} would be a binary, which is never compressed; use the extension .arpa.gz "
            "for ARPA, or omit .gz"
        )
    if output.exists() and not output.is_file():
        raise AsrError(f"{output} is a folder or a device; specify a file")
    for source in sources:
        both_exist = source != "-" and os.path.exists(source) and output.exists()
        if both_exist and output.samefile(source):
            raise AsrError(f"{output} would be written over {source}; choose another file")
    check_writable(output)


def _write_model(model: "LanguageModel", output: Path, quantize: bool) -> None:
    if output.name.endswith(ARPA_ENDINGS):
        model.write_arpa(output)
    else:
        model.write(output, quantize)


def _contents(model: "LanguageModel") -> Facts:
    orders = {f"{order}-grams": count for order, count in enumerate(model.counts, start=1)}
    return {"vocabulary": model.counts[0] - RESERVED_WORDS, **orders}


def _describe_file(path: Path) -> str:
    from rich.filesize import decimal

    from asr.lm.model import find_kind

    return f"{path} ({find_kind(path)}, {decimal(path.stat().st_size)})"
