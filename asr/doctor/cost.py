"""What an epoch of training will cost in time and memory."""

FLOPS_PER_CORE = 50e9  # a second, as LSTM layers reach on one modern x86-64 core
ACTIVATIONS = 40  # numbers kept for the backward pass by each cell at each frame (measured)
PROCESS_BYTES = 0.6e9  # of torch and what it has loaded


def format_duration(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
