"""Train on LibriSpeech: `python recipes/librispeech/train.py [key=value ...]` (conf/librispeech.yaml).

Run prepare.py first. After an interruption the same command resumes from the last checkpoint.
"""

import sys

from asr.recipe import run

if __name__ == "__main__":
    sys.exit(run("librispeech"))
