"""What the scripts share that measure a checkpoint on sets: options, loading, listening, the end.

`recipes/english/evaluate.py`, `recipes/english/latency.py`, `scripts/measure_long_audio.py`.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from asr.checkpoint import load_decoder_config
from asr.cli.options import prepare
from asr.data.manifest import Utterance, read_manifest
from asr.decoder.build import load_decoder
from asr.decoder.config import Decoder, DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.files import write_atomically
from asr.progress import complain, track
from asr.recognizer import Recognizer
from asr.runtime.device import count_cores
from asr.stream import Segment
from asr.text import PROFILES

SOME_FAILED = 1
"""Exit code where some of the recordings could not be read, as in `asr evaluate`."""

Sets = dict[str, list[Utterance]]
"""Utterances by the name of their set."""


def make_parser(description: str | None, output: str, profile: str) -> argparse.ArgumentParser:
    """A parser with the options that all of them have, and some defaults."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default="runs/english/best.pt", help="(%(default)s)")
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default=profile,
        help="how references and texts are normalized before they are compared (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    parser.add_argument(
        "--threads",
        type=positive,
        default=count_cores(),
        metavar="N",
        help="of the CPU (all cores)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        metavar="FILE",
        help="JSON; the picture gets the same name, .png (%(default)s)",
    )
    return parser


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Options for `read_sets`."""
    parser.add_argument(
        "--manifest",
        type=_named_manifest,
        action=_Manifests,
        metavar="NAME=FILE",
        help="a set to evaluate, JSONL; again for more (each dev-NAME.jsonl in --data)",
    )
    parser.add_argument("--data", type=Path, default=Path("data/english"), help="(%(default)s)")


def read_sets(options: argparse.Namespace) -> tuple[dict[str, Path], Sets]:
    """The manifests that are meant, by name, and their utterances.

    Raises DataError where there is none, or one cannot be used.
    """
    manifests: dict[str, Path] = options.manifest or {
        path.stem.removeprefix("dev-"): path for path in sorted(options.data.glob("dev-*.jsonl"))
    }
    if not manifests:
        raise DataError(
            f"{options.data} holds no dev-*.jsonl: run prepare.py, or name a --manifest"
        )
    return manifests, {name: read_manifest(path) for name, path in manifests.items()}


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def amount(text: str) -> float:
    """A number from 0 on, for argparse."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return number


class Loaded(NamedTuple):
    """A recognizer; its decoders by kind, its own being the last of them; its own one's numbers."""

    recognizer: Recognizer
    decoders: dict[str, Decoder]
    config: DecoderConfig


def load(checkpoint: str, options: argparse.Namespace, language_model: str | Path | None) -> Loaded:
    """The recognizer of a checkpoint that decodes greedily and, with a language model, by the beam.

    The beam's numbers are the checkpoint's. Raises AsrError for files that cannot be used.
    """
    config = DecoderConfig()
    if language_model:
        numbers = load_decoder_config(checkpoint)
        config = replace(numbers, kind="beam", language_model=str(language_model))
    recognizer = Recognizer.load(checkpoint, options.device, options.threads, config)
    if not language_model:
        return Loaded(recognizer, {"greedy": recognizer.decoder}, config)
    greedy = load_decoder(DecoderConfig(), recognizer.vocabulary, recognizer.model.frame_seconds)
    prepare(recognizer)
    return Loaded(recognizer, {"greedy": greedy, "beam": recognizer.decoder}, config)


def hear(
    recognizer: Recognizer, utterances: Sequence[Utterance], label: str
) -> dict[str, list[Segment] | AsrError]:
    """What the network says to each recording, by id; an error for one that cannot be read."""
    ordered = sorted(utterances, key=lambda utterance: -utterance.seconds)
    emissions = recognizer.emissions((u.audio, u.seconds) for u in ordered)
    return {
        ordered[index].id: segments for index, segments in track(emissions, label, len(ordered))
    }


def decode(
    recognizer: Recognizer,
    decoder: Decoder,
    heard: Mapping[str, list[Segment] | AsrError],
    threads: int,
) -> dict[str, Hypothesis]:
    """The hypothesis of every utterance by id; an empty one for what could not be read."""
    read = {name: [] if isinstance(found, AsrError) else found for name, found in heard.items()}
    with ThreadPoolExecutor(threads, thread_name_prefix="decoding") as pool:
        found = list(pool.map(partial(recognizer.decode, decoder=decoder), read.values()))
    return dict(zip(read, found, strict=True))


def list_failures(failures: Iterable[str]) -> int:
    """Name each recording that could not be read, whose words count as deleted; the exit code."""
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
    """The exit code of `measure`; its errors in one sentence."""
    try:
        return measure()
    except AsrError as error:
        complain(f"{script}: {error}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("Interrupted.")
        return 130


def _named_manifest(text: str) -> tuple[str, Path]:
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
