"""Train the English model: `python recipes/english/train.py [key=value ...]` (conf/english.yaml).

Run prepare.py first. After an interruption the same command resumes from the last checkpoint.
"""

import sys

from asr.recipe import run

if __name__ == "__main__":
    sys.exit(run("english"))
