"""What the scripts that measure a checkpoint share: options, loading, and how they end.

Used by evaluate.py, latency.py and long_audio.py.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr.checkpoint import Checkpoint
from asr.cli.options import positive, prepare
from asr.data.manifest import Utterance, read_manifest
from asr.decoder.build import load_decoder
from asr.decoder.config import Decoder, DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.errors import EXIT_CODE, INTERRUPTED, SOME_FAILED, AsrError, DataError
from asr.evaluation import compute_emissions, decode_emissions, score_hypotheses
from asr.files import write_atomically
from asr.progress import Bar, complain
from asr.recognizer import OperatingPoint, Recognizer
from asr.runtime.device import count_cores
from asr.scoring import Report
from asr.text import PROFILES

Sets = dict[str, list[Utterance]]
"""Utterances by the name of their set."""


def make_parser(description: str | None, output: str, profile: str) -> argparse.ArgumentParser:
    """Make a parser with the options that all scripts have, and some of their defaults."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", default="runs/english/best.pt", help="the trained model (%(default)s)"
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default=profile,
        help="how references and texts are normalized before they are compared (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    parser.add_argument(
        "--threads", type=positive, default=count_cores(), metavar="N", help="CPU threads (all)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        metavar="FILE",
        help="figures as JSON; the picture gets the same name, .png (%(default)s)",
    )
    return parser


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Add the options for `read_sets`."""
    parser.add_argument(
        "--manifest",
        type=_parse_named_manifest,
        action=_Manifests,
        metavar="NAME=FILE",
        help="a set to evaluate, JSONL; repeat it for more (each dev-NAME.jsonl in --data)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/english"),
        metavar="FOLDER",
        help="what prepare.py wrote (%(default)s)",
    )


def read_sets(options: argparse.Namespace) -> tuple[dict[str, Path], Sets]:
    """Read the manifests that the options name: their paths and utterances by name.

    Raises DataError if there are none, or one cannot be used.
    """
    manifests: dict[str, Path] = options.manifest or {
        path.stem.removeprefix("dev-"): path for path in sorted(options.data.glob("dev-*.jsonl"))
    }
    if not manifests:
        raise DataError(
            f"{options.data} holds no dev-*.jsonl; run prepare.py, or name a --manifest"
        )
    return manifests, {name: read_manifest(path) for name, path in manifests.items()}


def amount(text: str) -> float:
    """Parse a number of at least 0, for argparse."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


@dataclass(frozen=True)
class Loaded:
    """A recognizer and the decoders to measure.

    Attributes:
        recognizer: The recognizer; its own decoder is the last of `decoders`.
        decoders: By kind, "greedy" first.
        config: The settings of the recognizer's own decoder.
    """

    recognizer: Recognizer
    decoders: dict[str, Decoder]
    config: DecoderConfig


def load(
    checkpoint: Checkpoint, options: argparse.Namespace, language_model: str | Path | None
) -> Loaded:
    """Load a recognizer that decodes greedily and, with a language model, by beam search too.

    The beam's settings are the checkpoint's. Raises AsrError for files that cannot be used.
    """
    config = DecoderConfig()
    if language_model:
        config = replace(checkpoint.decoder, kind="beam", language_model=str(language_model))
    recognizer = Recognizer.load(checkpoint, options.device, options.threads, config)
    if not language_model:
        return Loaded(recognizer, {"greedy": recognizer.decoder}, config)
    greedy = load_decoder(DecoderConfig(), recognizer.vocabulary, recognizer.model.frame_seconds)
    prepare(recognizer)
    return Loaded(recognizer, {"greedy": greedy, "beam": recognizer.decoder}, config)


@dataclass(frozen=True)
class Measured:
    """What several decoders make of one set.

    Attributes:
        reports: By decoder.
        hypotheses: By decoder, then by utterance id; without the recordings that cannot be read.
        errors: By utterance id: why a recording cannot be read.
    """

    reports: dict[str, Report]
    hypotheses: dict[str, dict[str, Hypothesis]]
    errors: dict[str, AsrError]


def measure_set(
    recognizer: Recognizer,
    decoders: Mapping[str, Decoder],
    utterances: Sequence[Utterance],
    options: argparse.Namespace,
    label: str,
    operating_point: OperatingPoint | None = None,
) -> Measured:
    """Run the network once on each recording and decode its output with each decoder."""
    errors: dict[str, AsrError] = {}
    with Bar(label, len(utterances)) as bar:
        found = compute_emissions(recognizer, utterances, operating_point, errors, bar.advance)
        emissions = {utterance.id: segments for utterance, segments in found}
    reports, hypotheses = {}, {}
    for kind, decoder in decoders.items():
        texts = decode_emissions(recognizer, emissions, decoder, options.threads)
        evaluation = score_hypotheses(utterances, texts, errors, options.profile)
        reports[kind], hypotheses[kind] = evaluation.report, evaluation.hypotheses
    return Measured(reports, hypotheses, errors)


def list_failures(failures: Iterable[str]) -> int:
    """Name each recording that could not be read, and return the exit code."""
    failures = list(failures)
    for failure in failures:
        complain(failure)
    if not failures:
        return 0
    complain(f"{len(failures)} recordings could not be read: all their words count as deleted.")
    return SOME_FAILED


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write figures as JSON. Raises FileError."""
    content = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()
    write_atomically(path, lambda file: file.write(content + b"\n"))


def finish(script: str, measure: Callable[[], int]) -> int:
    """Run `measure` and return the exit code; an error becomes one line on stderr."""
    try:
        return measure()
    except AsrError as error:
        complain(f"{script}: {error}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("Interrupted.")
        return INTERRUPTED


def _parse_named_manifest(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(path)


class _Manifests(argparse.Action):
    """Collects manifests by name."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, given: Any, *_: object
    ) -> None:
        name, path = given
        found = getattr(namespace, self.dest) or {}
        if name in found:
            parser.error("each --manifest needs a name of its own")
        setattr(namespace, self.dest, found | {name: path})
