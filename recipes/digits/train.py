"""Train on synthetic digits: `python recipes/digits/train.py [key=value ...]` (conf/digits.yaml).

Run prepare.py first. After an interruption the same command resumes from the last checkpoint.
"""

import sys

from asr.recipe import run

if __name__ == "__main__":
    sys.exit(run("digits"))
