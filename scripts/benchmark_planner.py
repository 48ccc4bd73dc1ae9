"""Time, padding and repetition of the epoch planner on as many utterances as LibriSpeech has.

    python scripts/benchmark_planner.py [--batch-seconds 400]

The 281,241 lengths are drawn with a seed, shaped like LibriSpeech's: most from 12 to 16 s.
"""

import argparse
import statistics
import time

import numpy as np

from asr.data import Planner
from asr.progress import say

UTTERANCES = 281_241
EPOCHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--batch-seconds", type=float, default=400.0)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    long = generator.normal(14.5, 1.2, UTTERANCES)
    short = generator.uniform(1.5, 14.0, UTTERANCES)
    seconds = np.where(generator.random(UTTERANCES) < 0.65, long, short).clip(1.3, 35.0)
    ids = [str(number) for number in range(UTTERANCES)]
    planner = Planner(seconds, ids, options.batch_seconds, (0.9, 1.0, 1.1), seed=1)

    times, kept, padded, seen, repeated, batches = [], 0.0, 0.0, set(), 0, 0
    for epoch in range(EPOCHS):
        start = time.perf_counter()
        plan = planner.epoch(epoch)
        times.append(time.perf_counter() - start)
        for batch in plan.batches:
            lengths = seconds[batch] / plan.speeds[batch]
            kept += lengths.sum()
            padded += len(batch) * lengths.max()
        names = {frozenset(batch.tolist()) for batch in plan.batches}
        repeated += len(names & seen)
        batches += len(names)
        seen |= names
    say(
        f"{UTTERANCES:,} utterances in batches of {options.batch_seconds:g} s: "
        f"{statistics.median(times):.3f} s an epoch (median of {EPOCHS}), padding efficiency "
        f"{kept / padded:.4f}, {100 * repeated / batches:.2f} % of batches repeated"
    )


if __name__ == "__main__":
    main()
