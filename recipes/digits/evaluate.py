"""WER of a checkpoint: `python recipes/digits/evaluate.py [--checkpoint FILE] [--manifest FILE]`.

All other arguments go to `asr evaluate`, which does the work.
"""

import argparse
import sys

from asr.cli.main import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", default="runs/digits/best.pt")
    parser.add_argument("--manifest", default="data/digits/test.jsonl")
    options, rest = parser.parse_known_args()
    sys.exit(main(["evaluate", options.manifest, "--checkpoint", options.checkpoint, *rest]))
