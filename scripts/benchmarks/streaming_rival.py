"""The rival of `streaming.py`: pocketsphinx with its own English model.

    python streaming_rival.py SAMPLES PIECE

This module runs in the rival's environment, so it imports only NumPy and pocketsphinx, never `asr`.
SAMPLES is an .npy file of int16 samples at 16 kHz (streams, N), PIECE the number of samples of a
piece. A line on standard input is the number of a stream; the answer is a JSON line of its text and
the CPU seconds of decoding it piece by piece, with a query of the hypothesis after each piece.
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
    """Report the version, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps the decoder's own output out of the answers
    signals = np.load(path)  # (streams, N)
    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
    decode(decoder, signals[0, :SAMPLE_RATE], piece)  # warms up
    print(json.dumps({"version": f"pocketsphinx {version('pocketsphinx')}"}), file=answers)
    for line in sys.stdin:
        signal = signals[int(line)]
        start = time.process_time()
        text = decode(decoder, signal, piece)
        answer = {"cpu_seconds": time.process_time() - start, "text": text}
        print(json.dumps(answer), file=answers)


def decode(decoder: Decoder, signal: np.ndarray, piece: int) -> str:
    """The words of a signal (N,) that arrives in pieces."""
    decoder.start_utt()
    for begin in range(0, len(signal), piece):
        decoder.process_raw(signal[begin : begin + piece].tobytes(), no_search=False)
        decoder.hyp()
    decoder.end_utt()
    best = decoder.hyp()
    return best.hypstr if best else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
