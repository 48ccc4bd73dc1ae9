"""What all benchmarks share: paths, options, error handling, ratios, verdicts and JSON files."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from asr.errors import EXIT_CODE, AsrError
from asr.files import write_atomically
from asr.progress import complain

ROOT = Path(__file__).resolve().parents[2]
# Log-probabilities and a language model on which the decoders are compared.
DECODER_DATA = ROOT.parent / "shared" / "data" / "decoder_bench"


def make_parser(
    description: str | None,
    *,
    rounds: int | None = None,
    with_rivals: bool = False,
    with_json: bool = False,
) -> argparse.ArgumentParser:
    """A parser with the options that several benchmarks have.

    Args:
        description: the benchmark's docstring.
        rounds: default of --rounds; None if the benchmark has no rounds.
        with_rivals: whether to add --environments.
        with_json: whether to add --json.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="number of measured rounds (%(default)s)"
        )
    if with_rivals:
        parser.add_argument(
            "--environments",
            type=Path,
            default=ROOT / ".benchmark",
            help="folder of the rivals' environments, built on first use",
        )
    if with_json:
        parser.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the figures to this file"
        )
    return parser


def finish(measure: Callable[[argparse.Namespace], object], options: argparse.Namespace) -> int:
    """The exit code of a benchmark; an error is reported in one sentence."""
    try:
        measure(options)
    except AsrError as error:
        complain(f"{Path(sys.argv[0]).name}: {error}")
        return EXIT_CODE
    return 0


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


def verdict(ratio: float, target: float, at_least: bool = False) -> str:
    """The target of a ratio, and whether it was missed."""
    reached = ratio >= target if at_least else ratio <= target
    bound = "at least" if at_least else "at most"
    return f"(target: {target:.2f} {bound}{'' if reached else ', missed'})"


def write_json(path: Path, figures: Any) -> None:
    """Write figures as JSON, atomically."""
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
