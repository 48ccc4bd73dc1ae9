"""What an epoch of training will cost in time and memory."""

import numpy as np

from asr.data.planning import Planner
from asr.doctor.measurements import Examination
from asr.model import AcousticModel

# Floating-point operations per second that LSTM layers reach on one modern x86-64 core.
FLOPS_PER_CORE = 50e9
# Activations stored per cell and frame for the backward pass (measured).
ACTIVATIONS = 40
# Memory that torch and the libraries that it loads take.
PROCESS_BYTES = 0.6e9


def estimate_cost(
    examination: Examination, model: AcousticModel, batch_seconds: float
) -> dict[str, str]:
    """What an epoch on the first split costs, in words that name the assumptions."""
    utterances = examination.splits[examination.names[0]] if examination.names else ()
    usable = [u for u in utterances if u.seconds <= batch_seconds]
    if not usable:
        return {}
    seconds = np.array([u.seconds for u in usable])
    batches = Planner(seconds, (u.id for u in usable), batch_seconds).epoch(0).batches
    padded = sum(len(batch) * float(seconds[batch[0]]) for batch in batches)
    weights = sum(parameter.numel() for parameter in model.parameters())
    computing = 6 * weights * (padded / model.frame_seconds) / FLOPS_PER_CORE
    total = sum(u.seconds for u in examination.utterances)
    reading = examination.reading_seconds * (sum(u.seconds for u in usable) / max(total, 1e-9))
    encoder = model.encoder.config
    cells = encoder.layers * (1 if encoder.kind == "forward" else 2) * encoder.hidden
    activations = 4 * ACTIVATIONS * cells * batch_seconds / model.frame_seconds
    memory = PROCESS_BYTES + 16 * weights + activations
    return {
        "model": f"{encoder.kind}, {encoder.layers} x {encoder.hidden}, {weights:,} weights",
        "steps in an epoch": f"{len(batches):,} batches of up to {batch_seconds:g} s, "
        f"{100 * (1 - seconds.sum() / padded):.1f} % padding",
        "computing": f"{format_duration(computing)} on one core, at 6 operations per weight "
        f"and frame and {FLOPS_PER_CORE / 1e9:.0f} billion operations per second",
        "reading": f"{format_duration(reading)} on one core, as measured "
        "now, without augmentation and features",
        "memory": f"{memory / 1e9:.1f} GB per process: {PROCESS_BYTES / 1e9:.1f} GB for torch, "
        f"16 bytes per weight, {4 * ACTIVATIONS} bytes per cell and frame of a batch",
    }


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
