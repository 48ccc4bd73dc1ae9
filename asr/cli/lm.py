"""What the commands `asr lm ...` do: language models are made, described, measured and converted.

Each function returns facts to print. A model's file is written as its name says: ARPA where it
ends in .arpa or .arpa.gz, else the binary of `asr.lm.model`.
"""

import argparse
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic

from rich.filesize import decimal

from asr.cli.options import positive
from asr.cli.output import print_facts
from asr.errors import AsrError
from asr.files import check_writable
from asr.lm.estimation import (
    STANDARD_INPUT,
    EstimationConfig,
    EstimationWarning,
    read_sentences,
)
from asr.lm.model import LanguageModel, find_kind
from asr.progress import Bar, complain


def declare(command: argparse.ArgumentParser) -> None:
    """Add the commands of `asr lm`."""
    commands = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run_it, declare_it, summary in (
        ("train", _lm_train, _declare_lm_train, "estimate an n-gram model from text"),
        ("info", _lm_info, _declare_lm_info, "describe a language model"),
        ("perplexity", _lm_perplexity, _declare_lm_perplexity, "measure a model on text"),
        ("convert", _lm_convert, _declare_lm_convert, "turn ARPA into a fast binary, or back"),
    ):
        one = commands.add_parser(name, help=summary, description=f"{summary}.", allow_abbrev=False)
        one.set_defaults(run_lm=run_it, parser=one)
        declare_it(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the command of `asr lm` that was chosen; the exit code."""
    code: int = arguments.run_lm(arguments)
    return code


def _declare_lm_train(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    command.add_argument(
        "--order",
        type=positive,
        default=3,
        metavar="N",
        help="words in the longest n-grams, 1 to 5 (default: 3)",
    )
    command.add_argument(
        "--prune",
        type=_count,
        nargs="+",
        default=[0],
        metavar="N",
        help="drop n-grams seen so many times or less: a number for each order, the last one also "
        "for the orders after it, such as 0 0 1 (default: 0, drop none)",
    )
    command.add_argument(
        "--vocabulary-limit",
        type=positive,
        metavar="N",
        help="know only the N most frequent words (default: all)",
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="write the model to this file: ARPA where it ends in .arpa or .arpa.gz, else a binary",
    )
    _add_quantize_option(command)


def _declare_lm_info(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)


def _declare_lm_perplexity(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)
    _add_texts(command)


def _declare_lm_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="IN", help="ARPA, ARPA in gzip, or a binary")
    command.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="ARPA where it ends in .arpa or .arpa.gz, else a binary",
    )
    _add_quantize_option(command)


def _add_language_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, metavar="FILE", help="ARPA, ARPA in gzip, or a binary")


def _add_texts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="UTF-8 text, a sentence on each line, plain or in gzip; - for standard input",
    )


def _add_quantize_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantize", "--quantise", action="store_true", help="a smaller binary, of rounded numbers"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; end the list with an option")
    return int(text)


def _lm_train(arguments: argparse.Namespace) -> int:
    from asr.lm.estimation import EstimationConfig

    config = EstimationConfig(arguments.order, arguments.prune, arguments.vocabulary_limit)
    print_facts(train(arguments.texts, config, arguments.output, arguments.quantize))
    return 0


def _lm_info(arguments: argparse.Namespace) -> int:

    print_facts(describe(arguments.model))
    return 0


def _lm_perplexity(arguments: argparse.Namespace) -> int:

    print_facts(measure(arguments.model, arguments.texts))
    return 0


def _lm_convert(arguments: argparse.Namespace) -> int:

    print_facts(convert(arguments.source, arguments.output, arguments.quantize))
    return 0


ARPA_ENDINGS = (".arpa", ".arpa.gz")
RESERVED_WORDS = 3  # <unk>, <s> and </s> are in every vocabulary
MANY_SENTENCES = 10_000  # worth showing that something goes on

Facts = dict[str, object]


def train(
    texts: Sequence[str], config: EstimationConfig, output: Path, quantize: bool = False
) -> Facts:
    """Estimate a model of the text files `texts` and write it to `output`.

    Raises AsrError before any work where `output` cannot be meant, and for texts that do not fit
    into the memory; TextError for texts that `read_sentences` or `estimate` refuse.
    """
    _check_output(output, texts, quantize)
    sentences = _read_texts(texts)
    began = monotonic()
    with (
        # Reading, counting each order, computing, arranging, writing.
        Bar("training", config.order + 4, "stages") as bar,
        warnings.catch_warnings(record=True, action="always", category=EstimationWarning) as caught,
    ):
        training = _Training(bar)
        try:
            model = LanguageModel.estimate(
                training.count(sentences),
                config.order,
                config.prune,
                config.vocabulary_limit,
                on_progress=training.begin,
            )
        except MemoryError:
            raise AsrError(
                "The n-grams of the text do not fit into the memory; give less text or a lower "
                "order."
            ) from None
        training.begin("writing the model")
        _write_model(model, output, quantize)
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
        "quantized": model.quantized,
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


def convert(source: Path, output: Path, quantize: bool = False) -> Facts:
    """Write the model in a file to another one. Raises as `train` does, and LanguageError."""
    _check_output(output, [str(source)], quantize)
    model = LanguageModel.read(source)
    _write_model(model, output, quantize)
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


def _check_output(output: Path, sources: Sequence[str], quantize: bool) -> None:
    """Refuse, before any work is done, an output that cannot be meant or cannot be written."""
    if quantize and output.name.endswith(ARPA_ENDINGS):
        raise AsrError(
            f"{output} would be ARPA, which is never quantized; omit --quantize, or give the "
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


def _write_model(model: LanguageModel, output: Path, quantize: bool) -> None:
    if output.name.endswith(ARPA_ENDINGS):
        model.write_arpa(output)
    else:
        model.write(output, quantize)


def _contents(model: LanguageModel) -> Facts:
    orders = {f"{order}-grams": count for order, count in enumerate(model.counts, start=1)}
    return {"vocabulary": model.counts[0] - RESERVED_WORDS, **orders}


def _describe_file(path: Path) -> str:
    return f"{path} ({find_kind(path)}, {decimal(path.stat().st_size)})"
