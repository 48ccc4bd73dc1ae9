"""The rival of `benchmark_streaming.py`: pocketsphinx with its own English model.

    python benchmark_streaming_rival.py SAMPLES PIECE

It runs in the rival's own environment, so it imports only NumPy and pocketsphinx, never `asr`.
SAMPLES is an .npy file of int16 samples at 16 kHz (streams, N), PIECE the samples of a piece. A line
on standard input is the number of a stream; the answer is a JSON line of its text and the CPU
seconds that it took, piece after piece, with a look at the hypothesis after each.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pocketsphinx import Decoder

SAMPLE_RATE = 16_000


def main(path: Path, piece: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a decoder prints must not fall among the answers
    signals = np.load(path)  # (streams, N)
    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
    listen(decoder, signals[0, :SAMPLE_RATE], piece)  # warms up
    print(json.dumps({"version": f"pocketsphinx {version('pocketsphinx')}"}), file=answers)
    for line in sys.stdin:
        signal = signals[int(line)]
        start = time.process_time()
        text = listen(decoder, signal, piece)
        answer = {"cpu_seconds": time.process_time() - start, "text": text}
        print(json.dumps(answer), file=answers)


def listen(decoder: Decoder, signal: np.ndarray, piece: int) -> str:
    """The words of a signal (N,) that comes in pieces."""
    decoder.start_utt()
    for begin in range(0, len(signal), piece):
        decoder.process_raw(signal[begin : begin + piece].tobytes(), no_search=False)
        decoder.hyp()
    decoder.end_utt()
    best = decoder.hyp()
    return best.hypstr if best else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
