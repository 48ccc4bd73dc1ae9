"""Summary of a split: key figures and histograms."""

from typing import Any

import numpy as np
import numpy.typing as npt

from asr.doctor.findings import Histogram, Summary
from asr.doctor.measurements import Examination
from asr.doctor.recordings import limit_bands


def summarize(examination: Examination, name: str) -> Summary:
    """The facts about a split and its histograms, those without a value left out."""
    utterances = examination.splits[name]
    here = examination.split == examination.names.index(name)
    spoken = examination.recordings[here & examination.spoken]
    characters = examination.characters[here & examination.spoken]
    stated = np.array([utterance.seconds for utterance in utterances])
    facts = {
        "utterances": f"{len(utterances):,}",
        "hours": f"{stated.sum() / 3600:,.2f}",
        "speakers": f"{len({u.speaker for u in utterances} - {''}):,}",
        "different texts": f"{len(np.unique(examination.text_hashes[here])):,}",
    }
    if len(spoken):
        rates, counts = np.unique(spoken["sample_rate"], return_counts=True)
        facts["sample rates"] = ", ".join(
            f"{rate:,.0f} Hz ({100 * count / len(spoken):.0f} %)"
            for rate, count in zip(rates, counts, strict=True)
        )
        silent = 1 - float(spoken["active"].sum()) / float(spoken["seconds"].sum())
        facts["silence"] = f"{100 * silent:.0f} % of the time"
    histograms = [
        draw_histogram("duration", "s", stated),
        draw_histogram("speech level", "dB of full scale", spoken["level"]),
        draw_histogram("loud speech above the background", "dB", spoken["dynamic_range"]),
        draw_histogram("speaking rate", "characters/s", characters / spoken["span"]),
        draw_histogram("band limit", "kHz", limit_bands(spoken) / 1000),
    ]
    return Summary(name, facts, [h for h in histograms if h.counts])


def draw_histogram(name: str, unit: str, values: npt.NDArray[Any], bins: int = 40) -> Histogram:
    """A histogram whose first and last bin also hold the lowest and highest thousandth."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Histogram(name, unit, [], [])
    low, high = np.percentile(values, (0.1, 99.9))
    high = max(high, low + 1e-3)
    counts, edges = np.histogram(np.clip(values, low, high), bins, (low, high))
    return Histogram(name, unit, edges.tolist(), counts.tolist())
