"""MP3 streams: frame headers, the Xing header, joined and damaged streams, and the true length."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr.audio.recording import TOLERANCE_SECONDS, Block

# By the header's version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5.
_SAMPLE_RATES = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_PADDING = re.compile(rb"\0*")
_XING_NAMES = frozenset({b"Xing", b"Info"})
_VBRI_AT = 36  # bytes from the beginning of the frame
_JUNK_BYTES = 1 << 16  # that may be before the first frame
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


def skip_tags(data: bytes, start: int = 0) -> int:
    """Return where the first frame begins, after ID3v2 tags and the zeros that may pad them."""
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        sizes = data[start + 6 : start + 10]  # 7 bits each
        footer = 10 if data[start + 5] & 0x10 else 0
        start += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]) + footer
        padding = _PADDING.match(data, start)
        start = padding.end() if padding else len(data)
    return start


def find_stream(data: bytes) -> int | None:
    """Return where the first frame begins, if it is near the beginning of the data."""
    at = data.find(b"\xff", 0, _JUNK_BYTES)
    while at >= 0:
        if _is_frame(data, at):
            return at
        at = data.find(b"\xff", at + 1, _JUNK_BYTES)
    return None


@dataclass(frozen=True)
class Xing:
    """The contents of the Xing, Info or VBRI header of an MP3 stream; all zero if there is none."""

    frame_bytes: int = 0  # size of the frame that holds the header instead of sound
    samples: int | None = None  # promised samples per channel
    skip: int = 0  # samples to drop at the beginning: the encoder's and the decoder's delay
    drop: int = 0  # samples of padding to drop at the end


@dataclass
class Stretch:
    """Bytes of an MP3 stream that one decoder reads: undamaged frames of one format.

    Attributes:
        start: Offset of the first frame.
        end: Offset of the end of the last frame.
        sound_frames: The number of frames, without the one that holds a Xing header; None if the
            stream does not state their sizes.
        damaged_seconds: Estimated duration of the damaged bytes before it.
        skip: Samples per channel to drop at the beginning.
        drop: Samples per channel to drop at the end.
        samples: Samples per channel that are left; None if unknown.
        is_stated: Whether a Xing header confirms them.
    """

    start: int
    end: int
    sample_rate: int
    channels: int
    xing: Xing
    sound_frames: int | None
    last_bytes: int = 0  # of the last frame
    damaged_seconds: float = 0.0
    skip: int = 0
    drop: int = 0
    samples: int | None = None
    is_stated: bool = False


def _format_of(data: bytes, at: int) -> tuple[int, int, bool]:
    return data[at + 1] & 0x1E, data[at + 2] & 0x0C, data[at + 3] >> 6 == 3


def _is_frame(data: bytes, at: int) -> bool:
    """Return whether three frames of one format, or all up to the end, begin here."""
    kind = _format_of(data, at) if is_mp3(data[at : at + 4]) else None
    for count in range(3):
        head = data[at : at + 4]
        if len(head) < 4:
            return count > 0
        if not is_mp3(head) or _format_of(data, at) != kind:
            return False
        size = measure_frame(head)[0]
        if size < 8 or at + size > len(data):  # of free format, or cut
            return count > 0
        at += size
    return True


def find_stretches(data: bytes, start: int) -> list[Stretch]:
    """Divide a stream where its format changes, another file begins, or bytes are damaged.

    Joined files (`cat a.mp3 b.mp3`) have a Xing header at each beginning, another format, or both.
    """
    files: list[list[Stretch]] = []
    damaged = 0.0
    at = start
    while at < len(data):
        stretch = _measure_stretch(data, at)
        stretch.damaged_seconds = damaged
        if files and damaged and not stretch.xing.frame_bytes:
            files[-1].append(stretch)
        else:
            files.append([stretch])
        if stretch.sound_frames is None:
            break
        seconds = max(stretch.sound_frames, 1) * _frame_seconds(data, at)
        bytes_per_second = (stretch.end - stretch.start) / seconds
        at = _find_frame(data, stretch.end)
        damaged = _count_damaged(data, stretch, at) / bytes_per_second
        if damaged <= TOLERANCE_SECONDS:
            damaged = 0.0
        elif (
            at < len(data) and stretch.sound_frames > 0
        ):  # the frame before it is probably incomplete
            stretch.end -= stretch.last_bytes
            stretch.sound_frames -= 1
            damaged += _frame_seconds(data, stretch.start)
    for stretches in files:
        _settle_lengths(stretches)
    return [stretch for stretches in files for stretch in stretches]


def _settle_lengths(stretches: list[Stretch]) -> None:
    """Compare what the Xing header of a file states with the frames that are there."""
    first, last = stretches[0], stretches[-1]
    frame_samples = 1152 if first.sample_rate >= 32_000 else 576
    first.skip, last.drop = first.xing.skip, first.xing.drop
    for stretch in stretches:
        if stretch.sound_frames is not None:
            samples = stretch.sound_frames * frame_samples - stretch.skip - stretch.drop
            stretch.samples = max(samples, 0)
        stretch.is_stated = first.xing.samples is not None
    if first.xing.samples is None or first.sound_frames is None:
        first.samples = first.samples or first.xing.samples
        return
    missing = first.xing.samples - sum(stretch.samples or 0 for stretch in stretches)
    damaged = sum(stretch.damaged_seconds for stretch in stretches[1:]) * first.sample_rate
    if 0.5 * damaged < missing < 1.5 * damaged:
        for stretch in stretches[1:]:
            stretch.damaged_seconds *= missing / damaged
    elif missing > frame_samples and last.samples is not None:
        last.samples += missing  # it will be found to be cut short


def _frame_seconds(data: bytes, at: int) -> float:
    version, rate = (data[at + 1] >> 3) & 3, (data[at + 2] >> 2) & 3
    return (1152 if version == 3 else 576) / _SAMPLE_RATES[version][rate]


def _measure_stretch(data: bytes, start: int) -> Stretch:
    """Follow the frames from `start` while they are undamaged and of one format."""
    kind = _format_of(data, start)
    rate = _SAMPLE_RATES[(data[start + 1] >> 3) & 3][(data[start + 2] >> 2) & 3]
    xing = read_xing(data[start : start + 4096])
    stretch = Stretch(start, len(data), rate, 1 if kind[2] else 2, xing, None)
    at, frames = start, 0
    while is_mp3(data[at : at + 4]) and _format_of(data, at) == kind:
        size, _, side = measure_frame(data[at : at + 4])
        if size < 8:  # free format states no sizes
            return stretch
        offsets = (side, side + 2, _VBRI_AT)
        names = {data[at + offset : at + offset + 4] for offset in offsets}
        if (
            at > start
            and not names.isdisjoint({*_XING_NAMES, b"VBRI"})
            and read_xing(data[at : at + 4096]).frame_bytes
        ):
            break
        if at + size > len(data):  # cut
            break
        at += size
        stretch.last_bytes = size
        frames += 1
    if not frames:  # a single frame that is cut
        at = len(data)
    stretch.end = at
    stretch.sound_frames = frames - (1 if xing.frame_bytes else 0)
    return stretch


def _find_frame(data: bytes, at: int) -> int:
    """Return the offset of the next undamaged frame, or the length of the data."""
    at = skip_tags(data, at)
    while 0 <= at < len(data):
        if _is_frame(data, at):
            return at
        at = data.find(b"\xff", at + 1)
    return len(data)


def _count_damaged(data: bytes, before: Stretch, at: int) -> int:
    """Return how many bytes from the end of a stretch to the frame at `at` are lost sound.

    They are not if they are tags, or zeros at the end of a file.
    """
    rest = data[before.end : at]
    padded = rest.strip(b"\0")
    has_tags = padded.startswith(b"ID3") or padded[-128:-125] == b"TAG"
    if padded[:3] == b"ID3":
        padded = padded[skip_tags(padded) :].strip(b"\0")
    if padded[-128:-125] == b"TAG":
        padded = padded[:-128]
    if padded.startswith((b"APETAGEX", b"LYRICSBEGIN", b"TAG")):
        return 0
    is_end = (
        at >= len(data)
        or _format_of(data, at) != _format_of(data, before.start)
        or read_xing(data[at : at + 4096]).frame_bytes > 0
    )
    return len(padded) if is_end or has_tags else len(rest)


def read_xing(data: bytes) -> Xing:
    """Read the Xing (or Info) header of an MP3, with the delays that LAME and FFmpeg add to it.

    Fraunhofer's encoders write a VBRI header instead, which states the number of frames only.
    Source: http://gabriel.mp3-tech.org/mp3infotag.html
    """
    frame_bytes, frame_samples, at = measure_frame(data)
    if data[_VBRI_AT : _VBRI_AT + 4] == b"VBRI" and frame_bytes >= _VBRI_AT + 18 <= len(data):
        count = int.from_bytes(data[_VBRI_AT + 14 : _VBRI_AT + 18], "big")
        return Xing(frame_bytes, count * frame_samples)
    if not data[1] & 1 and data[at : at + 4] not in _XING_NAMES:
        at += 2  # some encoders put the frame's checksum first
    if data[at : at + 4] not in _XING_NAMES or len(data) < at + 8 or frame_bytes < at + 8:
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


def silence_dependents(data: bytes) -> bytes:
    """Silence the first frames of a stream that need bytes of frames before it.

    A frame's sound may begin up to 511 bytes earlier (its "bit reservoir"). Without them a decoder
    prints messages and gives noise. The frames are kept, because later ones need their bytes.
    """
    stream = bytearray(data)
    at = available = 0
    while is_mp3(data[at : at + 4]):
        size, _, end = measure_frame(data[at : at + 4])
        protected = 0 if data[at + 1] & 1 else 2
        start, end = at + 4 + protected, at + end + protected
        bits = 9 if (data[at + 1] >> 3) & 3 == 3 else 8
        if size < 8 or int.from_bytes(data[start : start + 2], "big") >> (16 - bits) <= available:
            break
        stream[start:end] = bytes(len(stream[start:end]))  # no sound
        stream[start : start + 2] = (available << (16 - bits)).to_bytes(2, "big")  # begins there
        available = min(available + at + size - end, (1 << bits) - 1)
        at += size
    return bytes(stream)


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
