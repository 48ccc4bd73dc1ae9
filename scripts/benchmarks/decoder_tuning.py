"""Tuning of the decoders' weights for `decoder.py`, and the comparison of error rates."""

import numpy as np
from decoder_bench import Bench, Contestant

from asr.progress import Bar

# Ranges of the weights that are searched for all decoders.
ALPHAS, BETAS = (0.1, 1.0), (0.0, 4.0)
# Number of bootstrap resamples.
RESAMPLES = 10_000


def tune(
    bench: Bench, utterances: list[int], trials: int, beam: int, seed: int
) -> dict[str, dict[str, float]]:
    """The best weights of each decoder with a language model, all with the same trials.

    The first half of the trials is spread evenly over the ranges, the second half closely around the
    best of the first; both use every fourth utterance. The best sixth of all trials is repeated on
    all utterances. All decoders are tried at the same points.
    """
    generator = np.random.default_rng(seed)
    spread = latin_hypercube(generator, trials - trials // 2)
    around = (latin_hypercube(generator, trials // 2) - 0.5) * 0.4
    finalists = max(1, trials // 6)
    tuned = [c for c in bench.contestants if c.language_model]
    best: dict[str, dict[str, float]] = {}

    def measure(contestant: Contestant, point: np.ndarray, some: list[int]) -> float:
        weights = place(point, contestant)
        texts = bench.decode(contestant, beam, some, **weights)["texts"]
        bar.advance(note=contestant.name)
        return bench.wer(some, texts)

    with Bar("Tuning", len(tuned) * (trials + finalists), "trials") as bar:
        for contestant in tuned:
            some = utterances[::4]
            tried = [(measure(contestant, point, some), point) for point in spread]
            center = min(tried, key=lambda trial: trial[0])[1]
            near = np.clip(center + around, 0, 1)
            tried += [(measure(contestant, point, some), point) for point in near]
            tried.sort(key=lambda trial: trial[0])
            final = [(measure(contestant, p, utterances), p) for _, p in tried[:finalists]]
            best[contestant.name] = place(min(final, key=lambda trial: trial[0])[1], contestant)
    return best


def latin_hypercube(generator: np.random.Generator, count: int) -> np.ndarray:
    """`count` points of the unit cube (count, 3), spread evenly along each axis."""
    ranks = np.stack([generator.permutation(count) for _ in range(3)], axis=1)
    return (ranks + generator.random((count, 3))) / count


def place(point: np.ndarray, contestant: Contestant) -> dict[str, float]:
    """The weights at a point of the unit cube (3,)."""
    ranges = {"alpha": ALPHAS, "beta": BETAS, "unknown": contestant.unknowns}
    return {
        name: low + float(share) * (high - low)
        for share, (name, (low, high)) in zip(point, ranges.items(), strict=True)
    }


def bootstrap(differences: np.ndarray, words: np.ndarray, seed: int) -> dict[str, float]:
    """Mean difference of two error rates in points, and its paired 95 % bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(len(words), size=(RESAMPLES, len(words)))
    rates = 100 * differences[drawn].sum(axis=1) / words[drawn].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return {
        "points": 100 * float(differences.sum() / words.sum()),
        "low": float(low),
        "high": float(high),
    }
