"""MP3 streams: frame headers, the Xing header, and trimming to the true length."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]  # (n, channels)

# By the header's version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5.
_SAMPLE_RATES = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
DECODER_DELAY = 529  # samples that every Layer III decoder adds at the beginning


def is_mp3(head: bytes) -> bool:
    """Return whether the bytes begin with the header of an MPEG Layer III frame."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE6 == 0xE2
        and (head[1] >> 3) & 3 in _SAMPLE_RATES
        and head[2] >> 4 != 15
        and (head[2] >> 2) & 3 != 3
    )


def measure_frame(head: bytes) -> tuple[int, int, int]:
    """Return a frame's size in bytes, its samples per channel, and where its side information ends.

    `head` begins with the frame's header, for which `is_mp3` is true.
    """
    version, is_mono = (head[1] >> 3) & 3, head[3] >> 6 == 3
    rate = _SAMPLE_RATES[version][(head[2] >> 2) & 3]
    padding = (head[2] >> 1) & 1
    if version == 3:
        kbps = _MPEG1_KBPS[head[2] >> 4]
        return 144_000 * kbps // rate + padding, 1152, 4 + (17 if is_mono else 32)
    kbps = _MPEG2_KBPS[head[2] >> 4]
    return 72_000 * kbps // rate + padding, 576, 4 + (9 if is_mono else 17)


def skip_tags(data: bytes) -> int:
    """Return where the first frame begins, after ID3v2 tags and the zeros that may pad them."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        sizes = data[start + 6 : start + 10]  # 7 bits each
        footer = 10 if data[start + 5] & 0x10 else 0
        start += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]) + footer
        start = len(data) - len(data[start:].lstrip(b"\0"))
    return start


@dataclass(frozen=True)
class Xing:
    """The contents of the Xing or Info header of an MP3 stream; all zero if there is none."""

    frame_bytes: int = 0  # size of the frame that holds the header instead of sound
    samples: int | None = None  # promised samples per channel
    skip: int = 0  # samples to drop at the beginning: the encoder's and the decoder's delay
    drop: int = 0  # samples of padding to drop at the end


def read_xing(data: bytes) -> Xing:
    """Read the Xing (or Info) header of an MP3, with the delays that LAME and FFmpeg add to it.

    Source: http://gabriel.mp3-tech.org/mp3infotag.html
    """
    frame_bytes, frame_samples, at = measure_frame(data)
    names = (b"Xing", b"Info")
    if not data[1] & 1 and data[at : at + 4] not in names:
        at += 2  # some encoders put the frame's checksum first
    if data[at : at + 4] not in names or len(data) < at + 8 or frame_bytes < at + 8:
        return Xing()
    flags = data[at + 7]
    at += 8
    promised = None
    if flags & 1:
        promised = int.from_bytes(data[at : at + 4], "big") * frame_samples
    for flag, size in ((1, 4), (2, 4), (4, 100), (8, 4)):  # frames, bytes, seek table, quality
        at += size if flags & flag else 0
    skip = drop = 0
    encoder, delays = data[at : at + 1], int.from_bytes(data[at + 21 : at + 24], "big")
    if encoder.strip(b"\0"):
        skip = (delays >> 12) + DECODER_DELAY
        drop = max((delays & 0xFFF) - DECODER_DELAY, 0)
    samples = None if promised is None else max(promised - skip - drop, 0)
    return Xing(frame_bytes, samples, skip, drop)


def trim(blocks: Iterator[Block], skip: int, drop: int) -> Iterator[Block]:
    """Yield the blocks (n, channels) without the first `skip` and the last `drop` samples."""
    held: Block | None = None  # possibly among the last `drop` samples
    for block in blocks:
        kept = block[skip:]
        skip -= len(block) - len(kept)
        kept = kept if held is None else np.concatenate((held, kept))
        end = max(len(kept) - drop, 0)
        yield kept[:end]
        held = kept[end:]
