"""Recordings that consist of several parts, each with its own header, become one signal.

Joined files (`cat a.mp3 b.mp3`) and chained Ogg streams may change their sample rate and channels at
every part. All parts are converted to the format of the first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import soxr

from asr.audio.recording import Block, silence


@dataclass(frozen=True)
class Part:
    """A part of a recording that one decoder reads.

    Attributes:
        frames: Its samples per channel; None if only decoding can count them.
        decode: Opens the part and yields its blocks (n, channels).
        damaged_seconds: Duration of the damaged bytes before it.
    """

    sample_rate: int
    channels: int
    frames: int | None
    decode: Callable[[], Iterator[Block]]
    damaged_seconds: float = 0.0


def count_frames(parts: Sequence[Part]) -> int | None:
    """The samples per channel of all parts at the first one's rate; None if unknown."""
    total = 0.0
    for part in parts:
        if part.frames is None:
            return None
        total += (part.frames / part.sample_rate + part.damaged_seconds) * parts[0].sample_rate
    return round(total)


def join(parts: Sequence[Part], gaps: list[tuple[float, float]]) -> Iterator[Block]:
    """Yield the blocks (n, channels) of all parts, at the rate and with the channels of the first.

    No block is empty, although decoders and resamplers may have nothing to give at first.
    Damaged bytes become silence and are added to `gaps`, as (start, end) in seconds.
    """
    rate, channels = parts[0].sample_rate, parts[0].channels
    done = 0  # frames
    for part in parts:
        if part.damaged_seconds:
            gaps.append((done / rate, done / rate + part.damaged_seconds))
            frames = round(part.damaged_seconds * rate)
            yield from silence(frames, channels)
            done += frames
        for block in filter(len, _convert(part, rate, channels)):
            done += len(block)
            yield block


def _convert(part: Part, rate: int, channels: int) -> Iterator[Block]:
    """Yield the blocks of a part (n, channels) at this rate and with this number of channels."""
    if part.sample_rate == rate:
        for block in part.decode():
            yield mix(block, channels)
        return
    stream = soxr.ResampleStream(part.sample_rate, rate, channels, dtype="float32", quality="HQ")
    for block in part.decode():
        yield _resample(stream, mix(block, channels), channels)
    yield _resample(stream, np.zeros((0, channels), np.float32), channels, last=True)


def _resample(
    stream: soxr.ResampleStream, block: Block, channels: int, last: bool = False
) -> Block:
    shape = block if channels > 1 else block[:, 0]
    return cast(
        Block, stream.resample_chunk(np.ascontiguousarray(shape), last).reshape(-1, channels)
    )


def mix(block: Block, channels: int) -> Block:
    """Convert a block (n, c) to another number of channels, each the mean of the given ones."""
    if block.shape[1] == channels:
        return block
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # such samples are refused once they are mixed
        return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)
