"""Small files that several tests write."""

from pathlib import Path

import numpy as np
import soundfile


def write_wav(path: Path, seconds: float = 0.2, seed: int = 0) -> Path:
    """Write noise at 16 kHz; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000))
    soundfile.write(path, noise, 16_000)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write text as UTF-8; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
