"""Default values shared by the library and the help of the command line.

They are defined here so that the command line can show its help without loading torch or NumPy.
"""

WHOLE_SECONDS = 12.0
"""Recordings shorter than this are encoded in one piece unless a latency is requested."""

STREAM_LATENCY_MS = 640.0
"""Algorithmic latency of a stream."""

PAUSE_SECONDS = 0.6
"""Silence that ends a segment."""

BATCH_SECONDS = 40.0
"""Audio in a training batch, and the longest utterance that is trained on."""

SPEEDS = (0.9, 1.0, 1.1)
"""Factors of speed perturbation in training."""

LARGEST_COUNT = 1024
"""Largest number of threads or processes that is accepted."""

MOST_TRIALS = 10_000
"""Largest number of trials of `asr tune`, which is far beyond what gains anything."""
