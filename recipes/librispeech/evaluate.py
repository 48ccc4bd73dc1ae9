"""WER of a checkpoint: `python recipes/librispeech/evaluate.py [--checkpoint FILE] [--manifest FILE]`.

Decodes greedily, and then with each of the published language models of the corpus that prepare.py
has downloaded (converted to a binary file the first time). All other arguments go to `asr evaluate`,
which does the work; with a decoder option such as --lm only that decoder is evaluated.
"""

import argparse
import sys
from pathlib import Path

from asr.cli.main import main
from asr.progress import say

DECODER_OPTIONS = ("--decoder", "--lm", "--lexicon", "--hotwords", "--hotword", "--beam")


def convert(published: Path) -> Path | None:
    """The binary beside a published ARPA file, written if it is missing; None if that fails."""
    binary = published.with_name(published.name.removesuffix(".arpa.gz") + ".lm")
    if not binary.exists() and main(["lm", "convert", str(published), str(binary)]):
        return None
    return binary


def evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    """Evaluate each decoder under a line with its name; returns the highest exit code."""
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
    parser.add_argument("--checkpoint", default="runs/librispeech/best.pt")
    parser.add_argument("--manifest", default="data/librispeech/dev.jsonl")
    parser.add_argument(
        "--language-models",
        type=Path,
        default=Path("data/librispeech/language-models"),
        metavar="FOLDER",
        help="(%(default)s)",
    )
    sys.exit(evaluate(*parser.parse_known_args()))
