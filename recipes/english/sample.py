"""Make docs/sample.flac for the README's examples: a synthetic voice without room and noise."""

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile

from asr.data.voices import SAMPLE_RATE, Espeak
from asr.errors import EXIT_CODE, AsrError
from asr.progress import complain, say

TEXT = "the old man opened the door and looked out into the rain"
VOICE = "en-us+f2"
WORDS_PER_MINUTE, PITCH, INTONATION = 140, 50, 60
PAUSE_SECONDS = 0.3  # of silence before and after the speech
PEAK = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/sample.flac"))
    output: Path = parser.parse_args().output
    try:
        waveform = Espeak().say(TEXT, VOICE, WORDS_PER_MINUTE, PITCH, INTONATION)
    except AsrError as error:
        complain(f"sample.py: {error}")
        return EXIT_CODE
    waveform = np.pad(waveform, round(PAUSE_SECONDS * SAMPLE_RATE))
    soundfile.write(output, PEAK * waveform / np.abs(waveform).max(), SAMPLE_RATE, "PCM_16")
    say(f"{output}: {TEXT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
