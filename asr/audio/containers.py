"""Opening recordings of every format, and checking that a file has what its header promises."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from asr.audio.chunks import split_chunks
from asr.audio.flac import split_flac
from asr.audio.media import open_media
from asr.audio.mp3 import (
    DECODER_DELAY,
    Stretch,
    find_stretches,
    is_mp3,
    measure_frame,
    silence_dependents,
    skip_tags,
    trim,
)
from asr.audio.ogg import split_ogg
from asr.audio.parts import Part, count_frames, join
from asr.audio.recording import BLOCK_FRAMES, MEDIA_TOLERANCE_SECONDS, Block, Recording
from asr.audio.section import Section
from asr.errors import AudioError

_UNKNOWN_FRAMES = 1 << 62  # libsndfile's number of frames of a file that does not state it

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any] | Recording


@contextmanager
def open_recording(source: AudioSource) -> Iterator[Recording]:
    """Open a recording and check its header. Raises AudioError, also from within the block.

    A recording that is open already is yielded unchanged.
    """
    if isinstance(source, Recording):
        with _translate_errors(source.name):
            yield source
        return
    name = _describe(source)
    with ExitStack() as stack, _translate_errors(name):
        file = stack.enter_context(_open_bytes(source, name))
        magic = file.read(12)
        if not magic:
            raise AudioError(f"{name} is empty (0 bytes); record or copy it again")
        recording = _choose_decoder(file, magic, name, stack)
        if not 1_000 <= recording.sample_rate <= 1_000_000:
            raise AudioError(
                f"{name} has an invalid sample rate in its header"
                f" ({recording.sample_rate:,} samples per second); export it again"
            )
        yield recording


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn errors of libsndfile into AudioErrors."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        if error.code == 1:  # SF_ERR_UNRECOGNISED_FORMAT
            raise AudioError(
                f"{name} is not audio in a known format; convert it to wav, flac, mp3 or ogg"
            ) from error
        raise AudioError(
            f"{name} is damaged and cannot be decoded; copy or export it again"
        ) from error


def _describe(source: AudioSource) -> str:
    """Return the name of a source for messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source):,} bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def _open_bytes(source: AudioSource, name: str) -> BinaryIO:
    """Return the encoded recording as a seekable file at its beginning."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            if Path(source).is_dir():
                raise AudioError(f"{name} is a folder, not a recording; pass the files in it")
            file = io.FileIO(source)
            if file.seekable():
                file.name = ""  # soundfile would treat every file named .raw as headerless
                return io.BufferedReader(file)
            with file:  # a named pipe
                return io.BytesIO(file.read())
        if isinstance(source, np.ndarray | io.TextIOBase) or not hasattr(source, "read"):
            raise AudioError(
                f"{name} is not a source of audio; pass a path, bytes, a binary file or samples"
            )
        return io.BytesIO(source.read())
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check the path") from error
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name} cannot be opened ({reason}); check its access rights") from error


def _choose_decoder(file: BinaryIO, magic: bytes, name: str, stack: ExitStack) -> Recording:
    """Choose the decoder by the file's magic number, ignoring its extension."""
    if magic[4:8] == b"ftyp":
        return open_media(file, "mov", name, stack)
    if magic[:4] == b"\x1aE\xdf\xa3":  # EBML: webm, mkv
        return open_media(file, "matroska", name, stack)
    if magic[:3] == b"ID3" or is_mp3(magic):
        file.seek(0)
        data = file.read()
        start = skip_tags(data)
        if is_mp3(data[start : start + 4]):
            return _open_mp3(data, start, name)
        file, magic = io.BytesIO(data[start:]), data[start : start + 12]
    if magic[:4] == b"OggS":
        return _open_sections(split_ogg(file, name), name, stack)
    if magic[:4] == b"fLaC":
        return _open_sections(split_flac(file), name, stack)
    return _open_sections(split_chunks(file, magic[:4], name), name, stack)


def _open_sections(sections: list[Section], name: str, stack: ExitStack) -> Recording:
    """Open the recordings that a file consists of as one."""
    first = _open_sound(sections[0].file, stack)
    if len(sections) == 1:
        frames = None if first.frames >= _UNKNOWN_FRAMES else first.frames
        recording = first.to_recording(name, frames, first.read_blocks())
        recording.estimated_seconds = sections[0].stated_frames / first.samplerate
        return recording
    parts = [_to_part(section.file) for section in sections]
    recording = first.to_recording(name, count_frames(parts), iter(()))
    recording.blocks = join(parts, recording.gaps)
    recording.estimated_seconds = sum(
        section.stated_frames / part.sample_rate
        for section, part in zip(sections, parts, strict=True)
    )
    return recording


def _open_sound(file: BinaryIO, stack: ExitStack) -> "_SoundFile":
    file.seek(0)
    sound: _SoundFile = stack.enter_context(_SoundFile(_TolerantFile(file)))
    return sound


def _to_part(file: BinaryIO) -> Part:
    def decode() -> Iterator[Block]:
        with ExitStack() as stack:
            yield from _open_sound(file, stack).read_blocks()

    with ExitStack() as stack:
        sound = _open_sound(file, stack)
        frames = None if sound.frames >= _UNKNOWN_FRAMES else sound.frames
        return Part(sound.samplerate, sound.channels, frames, decode)


class _TolerantFile:
    """A file that ignores invalid seeks.

    On a damaged header libsndfile may seek to before the beginning of a file, and an exception in
    its callback would be printed and lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.read = file.read
        self.readinto = file.readinto  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):  # of BytesIO and of a real file
            return self._file.tell()


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """A sound file that is read without seeking.

    After every read soundfile seeks to the current position, which resets the MP3 decoder: samples
    then depend on the block size, by up to 0.05, and the decoder prints warnings to stderr.
    """

    def seekable(self) -> bool:
        return False

    def read_blocks(self) -> Iterator[Block]:
        while len(block := self.read(out=np.empty((BLOCK_FRAMES, self.channels), np.float32))):
            yield block

    def to_recording(self, name: str, frames: int | None, blocks: Iterator[Block]) -> Recording:
        return Recording(
            name, self.samplerate, self.channels, self.format, self.subtype, blocks, frames
        )


def _open_mp3(data: bytes, start: int, name: str) -> Recording:
    """Decode the frames from `start` to the end of the stream, as one recording if it was joined."""
    stretches = find_stretches(data, start)
    parts = [
        Part(
            stretch.sample_rate,
            stretch.channels,
            stretch.samples,
            partial(_decode_mp3, data, stretch),
            stretch.damaged_seconds,
        )
        for stretch in stretches
    ]
    rate, frames = parts[0].sample_rate, count_frames(parts)
    recording = Recording(name, rate, parts[0].channels, "MP3", "MPEG_LAYER_III", iter(()), frames)
    if frames is not None and not all(stretch.is_stated for stretch in stretches):
        recording.frames, recording.estimated_seconds = None, frames / rate
        recording.tolerance_seconds = MEDIA_TOLERANCE_SECONDS
    recording.blocks = join(parts, recording.gaps)
    return recording


def _decode_mp3(data: bytes, stretch: Stretch) -> Iterator[Block]:
    """Yield the blocks (n, channels) of a stretch.

    libsndfile stops at the length in the Xing header. Without a header it estimates the length,
    which can lose half of a variable-bit-rate stream. Therefore the decoder gets a Xing header that
    declares more frames than any file has, followed by a silent frame from which it trims its
    delay. The true header is applied to the decoded samples here.
    """
    head = data[stretch.start : stretch.start + 4]
    largest = bytes([0xFF, head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]])
    frame_bytes, frame_samples, at = measure_frame(largest)
    silent = largest.ljust(frame_bytes, b"\0")
    endless = (largest.ljust(at, b"\0") + b"Xing\0\0\0\1\x7f\xff\xff\xff").ljust(frame_bytes, b"\0")
    frames = silence_dependents(data[stretch.start + stretch.xing.frame_bytes : stretch.end])
    with _SoundFile(io.BytesIO(endless + silent + frames)) as sound:
        yield from trim(
            sound.read_blocks(), frame_samples - DECODER_DELAY + stretch.skip, stretch.drop
        )
