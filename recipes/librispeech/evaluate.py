"""Compute the WER of a checkpoint.

    python recipes/librispeech/evaluate.py [--checkpoint FILE] [--manifest FILE]

The greedy decoder runs first, then the beam decoder with each of the corpus's published language
models that prepare.py has downloaded; on first use each is converted to a binary file, which opens
instantly. All other arguments are passed on to `asr evaluate`; if a decoder option such as --lm is
among them, only that decoder runs.
"""

import argparse
import sys
from pathlib import Path

from asr.cli.main import main
from asr.progress import say

DECODER_OPTIONS = ("--decoder", "--lm", "--lexicon", "--hotwords", "--hotword", "--beam")


def convert(published: Path) -> Path | None:
    """The binary file of a published ARPA file, written if it is missing; None if that fails."""
    binary = published.with_name(published.name.removesuffix(".arpa.gz") + ".lm")
    if not binary.exists() and main(["lm", "convert", str(published), str(binary)]):
        return None
    return binary


def evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the evaluations; returns the highest exit code."""
    command = ["evaluate", options.manifest, "--checkpoint", options.checkpoint, *rest]
    if any(argument.partition("=")[0] in DECODER_OPTIONS for argument in rest):
        return main(command)
    published = sorted(options.language_models.glob("[34]-gram*.arpa.gz"))
    say("== greedy")
    code = main(command)
    for path in published if code < 2 else []:
        say(f"\n== {path.name}")
        binary = convert(path)
        code = max(code, main([*command, "--lm", str(binary)]) if binary else 2)
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default="runs/librispeech/best.pt", help="(%(default)s)")
    parser.add_argument("--manifest", default="data/librispeech/dev.jsonl", help="(%(default)s)")
    parser.add_argument(
        "--language-models",
        type=Path,
        default=Path("data/librispeech/language-models"),
        metavar="FOLDER",
        help="folder of the language models (%(default)s)",
    )
    sys.exit(evaluate(*parser.parse_known_args()))
