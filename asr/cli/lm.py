"""The commands `asr lm ...`: train, mix, describe, evaluate and convert n-gram language models.

The output format follows the file extension: ARPA for .arpa and .arpa.gz, otherwise the binary
format of `asr.lm.model`.
"""

import argparse
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from asr.cli import options
from asr.cli.inputs import check_standard_input
from asr.cli.output import print_facts
from asr.errors import AsrError, quote
from asr.files import check_writable
from asr.progress import Bar, complain
from asr.text import PROFILES, Vocabulary

if TYPE_CHECKING:
    from asr.lm.estimation import EstimationConfig, Normalizer
    from asr.lm.model import LanguageModel

ARPA_ENDINGS = (".arpa", ".arpa.gz")
FORMATS = "ARPA if its name ends in .arpa or .arpa.gz, otherwise binary"
RAW = "none"  # the profile that changes nothing
RESERVED_WORDS = 3  # <unk>, <s> and </s> are in every vocabulary
SUSPICIOUS_PERCENT = 20  # of unknown words, above which a text may be written otherwise
MANY_SENTENCES = 10_000  # number of sentences after which progress is shown

Facts = dict[str, object]


def declare(command: argparse.ArgumentParser) -> None:
    """Add the commands of `asr lm`."""
    commands = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, declare_one, run_one, summary in (
        ("train", _declare_train, _train, "train an n-gram model on text"),
        ("info", _add_model, _describe, "describe a language model"),
        ("mix", _declare_mix, _mix, "mix language models with weights that suit a text"),
        ("perplexity", _declare_perplexity, _measure, "measure the perplexity of a model on text"),
        ("convert", _declare_convert, _convert, "convert ARPA to a fast binary, or back"),
    ):
        description = f"{summary[0].upper()}{summary[1:]}."
        one = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        one.set_defaults(run_lm=run_one, parser=one)
        declare_one(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the command of `asr lm` that was chosen and return the exit code. Raises AsrError."""
    print_facts(arguments.run_lm(arguments))
    return 0


def _declare_train(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    options.add_count_option(
        command, "--order", "number of words in the longest n-grams, 1 to 5 (default: 3)", default=3
    )
    command.add_argument(
        "--prune",
        type=_count,
        nargs="+",
        default=[0],
        metavar="N",
        help="drop n-grams that occur at most N times; give one count per order, such as 0 0 1; "
        "the last one applies to all higher orders (default: 0, drop none). TEXT must stand before "
        "this option, which takes all words up to the next option",
    )
    _add_profile_option(command, "multilingual, or english with an English --checkpoint")
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="acoustic model: count the words that it cannot spell, which will never be recognized; "
        "`released` is the English model (default: none)",
    )
    options.add_count_option(
        command, "--vocabulary-limit", "keep only the N most frequent words (default: all)"
    )
    options.add_output_option(command, "FILE", f"file of the model: {FORMATS}", required=True)
    _add_quantize_option(command)


def _declare_mix(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL", help="language models, ARPA or binary"
    )
    options.add_output_option(command, "FILE", f"file of the mixture: {FORMATS}", required=True)
    choice = command.add_mutually_exclusive_group()
    choice.add_argument(
        "--tune",
        nargs="+",
        metavar="TEXT",
        help="choose the weights under which this text is most probable, which should be of the kind "
        "that is to be recognized, and not the text of the models",
    )
    choice.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="WEIGHT",
        help="the weight of each model (default: equal weights)",
    )
    options.add_count_option(
        command,
        "--limit",
        "keep only the N most important n-grams of order 2 and above, and their contexts "
        "(default: all)",
    )
    options.add_count_option(
        command, "--vocabulary-limit", "keep only the N most probable words (default: all)"
    )
    _add_quantize_option(command)


def _declare_perplexity(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    _add_texts(command)
    _add_profile_option(command, RAW)


def _declare_convert(command: argparse.ArgumentParser) -> None:
    _add_model(command, "IN")
    command.add_argument("output", type=Path, metavar="OUT", help=f"file to write: {FORMATS}")
    _add_quantize_option(command)


def _add_model(command: argparse.ArgumentParser, metavar: str = "FILE") -> None:
    purpose = "language model: ARPA (also in gzip, bzip2 or xz) or binary"
    command.add_argument("model", type=Path, metavar=metavar, help=purpose)


def _add_texts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="UTF-8 text with one sentence per line, plain or in gzip, bzip2 or xz, or - for "
        "standard input",
    )


def _add_profile_option(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--profile",
        choices=(*PROFILES, RAW),
        help="normalization of the text, which should be that of the model's transcripts (default: "
        f"{default}). {RAW}: keep words as they are; "
        + "; ".join(f"{name}: {description}" for name, description in PROFILES.items()),
    )


def _add_quantize_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantize",
        action="store_true",
        help="write a smaller binary with quantized probabilities",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{quote(text)} is not a count, 0 or more; put TEXT before --prune"
        )
    return int(text)


def _train(arguments: argparse.Namespace) -> Facts:
    from asr.lm.estimation import EstimationConfig

    config = EstimationConfig(arguments.order, arguments.prune, arguments.vocabulary_limit)
    return train(
        arguments.texts, config, arguments.output, arguments.quantize, _make_normalizer(arguments)
    )


def _make_normalizer(arguments: argparse.Namespace) -> "Normalizer":
    from asr.lm.estimation import Normalizer

    if not arguments.checkpoint:
        return Normalizer(arguments.profile or "multilingual")
    from asr.checkpoint import Checkpoint
    from asr.release import RELEASED

    is_released = arguments.checkpoint == "released"
    vocabulary = Checkpoint.read(RELEASED if is_released else arguments.checkpoint).vocabulary
    english = vocabulary == Vocabulary.english()
    profile = arguments.profile or ("english" if english else "multilingual")
    return Normalizer(profile, vocabulary)


def train(
    texts: Sequence[str],
    config: "EstimationConfig",
    output: Path,
    quantize: bool = False,
    normalizer: "Normalizer | None" = None,
) -> Facts:
    """Train a model on the text files `texts`, write it to `output` and return facts about it.

    The words are those of the text, changed by `normalizer` if there is one.

    Raises AsrError if `output` is invalid (before any work) or the texts do not fit into memory, and
    the TextErrors of `read_sentences` and `LanguageModel.estimate`.
    """
    from asr.lm.estimation import EstimationWarning
    from asr.lm.model import LanguageModel

    _check_output(output, texts, quantize)
    sentences = _read_texts(texts)
    if normalizer:
        sentences = normalizer.normalize(sentences)
    began = monotonic()
    with (
        # One stage each for reading, computing, arranging and writing, and one to count each order.
        Bar("training", config.order + 4, "stages") as bar,
        warnings.catch_warnings(record=True, action="always", category=EstimationWarning) as caught,
    ):
        stages = _Stages(bar)
        try:
            model = LanguageModel.estimate(
                stages.count(sentences), **asdict(config), on_progress=stages.begin
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
        **(_describe_changes(normalizer) if normalizer else {}),
        **_contents(model),
        "file": _describe_file(output),
        "time": f"{monotonic() - began:.1f} s",
    }


def _describe_changes(normalizer: "Normalizer") -> Facts:
    """What the profile did to the text, and what the acoustic model cannot spell."""
    changes = f"{normalizer.changed:,} words changed, {normalizer.dropped:,} dropped"
    facts: Facts = {}
    if normalizer.changed or normalizer.dropped:
        facts["profile"] = f"{normalizer.profile} ({changes})"
    if normalizer.vocabulary:
        unspelled = normalizer.unspelled
        some = ", ".join(word for word, _ in unspelled.most_common(5))
        facts["words that the model cannot spell"] = (
            f"{unspelled.total():,}, {len(unspelled):,} different" + (f": {some}" if some else "")
        )
    return facts


def _describe(arguments: argparse.Namespace) -> Facts:
    from rich.filesize import decimal

    from asr.lm.model import LanguageModel, find_kind

    path = arguments.model
    model = LanguageModel.read(path)
    return {
        "kind": find_kind(path),
        "order": model.order,
        **_contents(model),
        "quantized": model.quantized,
        "size on disk": decimal(path.stat().st_size),
        "memory": decimal(model.memory_bytes),
    }


def _measure(arguments: argparse.Namespace) -> Facts:
    from asr.lm.estimation import Normalizer
    from asr.lm.model import LanguageModel

    normalizer = Normalizer(arguments.profile or RAW)
    sentences = normalizer.normalize(_read_texts(arguments.texts))
    measured = LanguageModel.read(arguments.model).perplexity(_track_many(sentences))
    unknown = 100 * measured.unknown / measured.words
    if unknown > SUSPICIOUS_PERCENT and not arguments.profile:
        complain(
            f"asr: {unknown:.0f} % of the words are unknown to the model; if they are only written "
            "otherwise, in capitals or with punctuation, normalize them with --profile."
        )
    return {
        "perplexity": measured.perplexity,
        "perplexity of known words": measured.perplexity_known,
        "words": f"{measured.words:,}, of which {measured.sentences:,} are </s>",
        "unknown words": f"{measured.unknown:,} ({unknown:.2f} %)",
        "sentences": measured.sentences,
        **_describe_changes(normalizer),
    }


def _mix(arguments: argparse.Namespace) -> Facts:
    from asr.lm.mixture import fit_weights, mix
    from asr.lm.model import LanguageModel

    names, output = arguments.models, arguments.output
    if len(names) < 2:
        raise AsrError(f"only {names[0]} was given; mixing needs at least two language models")
    _check_output(output, list(map(str, names)), arguments.quantize)
    models = [LanguageModel.read(name) for name in names]
    weights = arguments.weights or [1.0] * len(models)
    if arguments.tune:
        weights = fit_weights(models, _read_texts(arguments.tune))
    limits = arguments.limit, arguments.vocabulary_limit
    with Bar("mixing", max(model.order for model in models) + 3, "stages") as bar:
        stages = _Stages(bar)
        mixing = mix(models, weights, *limits, on_progress=stages.begin)
        stages.begin("writing the model")
        _write_model(mixing.model, output, arguments.quantize)
        bar.complete()
    return {
        "weights": {
            str(name): f"{weight:.4f}" for name, weight in zip(names, mixing.weights, strict=True)
        },
        "n-grams pruned": mixing.dropped,
        **_contents(mixing.model),
        "file": _describe_file(output),
    }


def _convert(arguments: argparse.Namespace) -> Facts:
    from asr.lm.model import LanguageModel

    source, output = arguments.model, arguments.output
    _check_output(output, [str(source)], arguments.quantize)
    _write_model(LanguageModel.read(source), output, arguments.quantize)
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

    check_standard_input(names)
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
        if source != "-" and os.path.exists(source) and output.exists() and output.samefile(source):
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
