"""An open recording: what its header states, its samples on demand, and what is missing from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from asr.errors import AudioError

BLOCK_FRAMES = 65_536  # samples per channel in a decoded block; larger ones leave the CPU cache
# Allowed difference from the duration in the header; encoders differ by up to two MP3 frames.
TOLERANCE_SECONDS = 0.05
MEDIA_TOLERANCE_SECONDS = 0.25  # mp4 and webm count the codec's delay of up to 0.15 s as duration

Waveform = npt.NDArray[np.float32]  # (N,)
Block = npt.NDArray[np.float32]  # (n, channels)


@dataclass
class Recording:
    """An open recording: the contents of its header, and its samples on demand.

    Attributes:
        gaps: (start, end) in seconds of what is damaged, and is silent in `blocks`; complete once
            these have been read.
        warnings: Sentences about what the listener should know, without their final periods.
    """

    name: str
    sample_rate: int
    channels: int
    format: str
    subtype: str
    blocks: Iterator[Block]
    frames: int | None  # samples per channel; None if only decoding can count them
    estimated_seconds: float = 0.0  # duration in the header if `frames` is None; 0 if unknown
    tolerance_seconds: float = TOLERANCE_SECONDS
    gaps: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """The duration stated in the header, or None if it is known only after decoding."""
        if self.frames is None:
            return self.estimated_seconds or None
        return self.frames / self.sample_rate

    def check_length(self, decoded: int, sample_rate: int | None = None) -> None:
        """Raise AudioError if fewer frames were `decoded` than the header declares.

        The same holds if they are too few for one sample at `sample_rate` (default: the file's own).
        """
        if 2 * decoded * (sample_rate or self.sample_rate) < self.sample_rate:  # soxr rounds to 0
            raise AudioError(f"{self.name} contains no samples; record or export it again")
        promised = self.seconds or 0.0
        seconds = decoded / self.sample_rate
        if promised - seconds > self.tolerance_seconds:
            raise AudioError(
                f"{self.name} is damaged or cut short (its header promises {promised:.2f} s, and"
                f" {seconds:.2f} s can be decoded); copy or export it again"
            )

    def check_gaps(self) -> None:
        """Raise AudioError if a part of the recording is known to be damaged."""
        if self.gaps:
            raise AudioError(f"{self.name} is damaged {_place(self.gaps)}; copy or export it again")


def describe_gaps(name: str, gaps: Sequence[tuple[float, float]]) -> str:
    """Return a sentence on the damaged parts of a recording that was read all the same."""
    return f"{name} is damaged {_place(gaps)}, and nothing is recognized there; copy or export it again"


def _place(gaps: Sequence[tuple[float, float]]) -> str:
    start, end = gaps[0]
    place = f"from {start:.2f} to {end:.2f} s" if end > start else f"at {start:.2f} s"
    return place if len(gaps) == 1 else f"{place} and in {len(gaps) - 1} more places"


def check_track(track: int | None, count: int, name: str) -> None:
    """Raise AudioError if a recording with `count` audio tracks has no track of this number."""
    if track is not None and not 1 <= track <= count:
        raise AudioError(
            f"{name} has no audio track {track}; choose "
            + (f"one from 1 to {count}" if count > 1 else "track 1, its only one")
        )


def describe_choice(track: int, count: int, name: str) -> list[str]:
    """Return a sentence on the tracks that are not read, if there are several."""
    if count < 2:
        return []
    return [
        f"{name} has {count} audio tracks, and only track {track} is read; choose another one with"
        " --track, or in Python with asr.Track"
    ]


def silence(frames: int, channels: int) -> Iterator[Block]:
    """Yield blocks (n, channels) of silence, `frames` samples per channel in all."""
    while frames > 0:
        yield np.zeros((min(frames, BLOCK_FRAMES), channels), np.float32)
        frames -= BLOCK_FRAMES
