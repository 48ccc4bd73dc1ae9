"""Opening recordings of every format, and checking that a file has what its header promises."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from asr.audio.chunks import read_mp3, split_chunks
from asr.audio.flac import find_frames, split_flac
from asr.audio.media import find_demuxer, find_substitute, open_media
from asr.audio.messages import discard_messages
from asr.audio.mp3 import (
    DECODER_DELAY,
    Stretch,
    find_stream,
    find_stretches,
    is_mp3,
    measure_frame,
    silence_dependents,
    skip_tags,
    trim,
)
from asr.audio.ogg import split_ogg
from asr.audio.parts import Part, count_frames, join
from asr.audio.recording import (
    BLOCK_FRAMES,
    MEDIA_TOLERANCE_SECONDS,
    Block,
    Recording,
    check_track,
    silence,
)
from asr.audio.section import Section
from asr.errors import AudioError

HEAD_BYTES = 512  # that tell a file's format
_UNRECOGNIZED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's number of frames of a file that does not state it


@dataclass(frozen=True)
class Track:
    """One of the audio tracks of a recording that has several, such as a film in two languages.

    Example:
        >>> Track("film.mkv", 2).number
        2

    Attributes:
        source: A path, the bytes of a file, or a binary file.
        number: Which of the audio tracks, from 1.
    """

    source: str | os.PathLike[str] | bytes | BinaryIO
    number: int


AudioSource = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any] | Recording | Track


@contextmanager
def open_recording(source: AudioSource) -> Iterator[Recording]:
    """Open a recording and check its header. Raises AudioError, also from within the block.

    A recording that is open already is yielded unchanged.
    """
    if isinstance(source, Recording):
        with _translate_errors(source.name):
            yield source
        return
    source, track = (source.source, source.number) if isinstance(source, Track) else (source, None)
    name = _describe(source)
    with ExitStack() as stack, _translate_errors(name):
        file = stack.enter_context(_open_bytes(source, name))
        recording = _choose_decoder(file, name, stack, track)
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
        if error.code == _UNRECOGNIZED:
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


def _choose_decoder(file: BinaryIO, name: str, stack: ExitStack, track: int | None) -> Recording:
    """Choose the decoder by the file's first bytes, ignoring its extension."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); record or copy it again")
    if demuxer := find_demuxer(head):
        return open_media(file, demuxer, name, stack, track)
    if head[:4] == b"OggS":
        sections, notes = split_ogg(file, name, track)
        recording = _open_sections(sections, file, name, stack)
        recording.warnings += notes
        return recording
    if head[:3] == b"ID3" or is_mp3(head):
        file.seek(0)
        data = file.read()
        start = skip_tags(data)
        if is_mp3(data[start : start + 4]):
            check_track(track, 1, name)
            return _open_mp3(data, start, name)
        if 0 < start < len(data):
            return _choose_decoder(io.BytesIO(data[start:]), name, stack, track)
    check_track(track, 1, name)
    if head[:4] == b"fLaC":
        return _open_sections(split_flac(file), file, name, stack)
    sections = split_chunks(file, head[:4], name)
    stream = read_mp3(file, head[:4]) if len(sections) == 1 else b""
    begin = find_stream(stream)
    if begin is not None:
        return _open_mp3(stream, begin, name)
    try:
        return _open_sections(sections, file, name, stack)
    except soundfile.LibsndfileError as error:
        if error.code != _UNRECOGNIZED:
            raise
        file.seek(0)
        data = file.read()
        begin = find_stream(data)
        if begin is None:
            raise
        recording = _open_mp3(data, begin, name)
        recording.warnings.append(
            f"{name} begins with {begin:,} bytes that are no sound, which are left out; copy or export"
            " it again if words are missing"
        )
        return recording


def _open_sections(
    sections: list[Section], file: BinaryIO, name: str, stack: ExitStack
) -> Recording:
    """Open the recordings that a file consists of as one."""
    try:
        first = _open_sound(sections[0].file, stack)
    except soundfile.LibsndfileError:
        file.seek(0)
        demuxer = find_substitute(file.read(4))
        if demuxer is None:
            raise
        with suppress(AudioError):  # the error of libsndfile tells more
            return open_media(file, demuxer, name, stack)
        raise
    if len(sections) == 1 and sections[0].ends_at is None:
        frames = None if first.frames >= _UNKNOWN_FRAMES else first.frames
        recording = first.to_recording(name, frames, first.read_blocks())
        recording.estimated_seconds = sections[0].stated_frames / first.samplerate
        if first.format == "FLAC":
            stated = frames or sections[0].stated_frames
            recording.blocks = _read_flac(first, sections[0].file, stated, recording.gaps)
        return recording
    parts = list(_to_parts(sections))
    recording = first.to_recording(name, count_frames(parts), iter(()))
    recording.blocks = join(parts, recording.gaps)
    recording.estimated_seconds = sum(
        section.stated_frames / part.sample_rate
        for section, part in zip(sections, parts, strict=True)
    )
    return recording


def _to_parts(sections: list[Section]) -> Iterator[Part]:
    """Yield the sections as parts, with the duration of what is lost between those of one stream."""
    clock = 0.0  # seconds
    part = None
    for section in sections:
        try:
            part = _to_part(section.file)
        except soundfile.LibsndfileError:  # too short after damage, or nothing but damage
            if part is None or section.ends_at is None:
                raise
            part = replace(part, frames=0, decode=lambda: iter(()))
        if section.ends_at is None:
            yield part
            clock = 0.0
            continue
        start = section.ends_at - (part.frames or 0) / part.sample_rate
        damaged = max(start - clock, 0.0) if section.follows_damage else 0.0
        yield replace(part, damaged_seconds=damaged)
        clock = section.ends_at


def _read_flac(
    sound: "_SoundFile", file: BinaryIO, stated: int, gaps: list[tuple[float, float]]
) -> Iterator[Block]:
    """Yield the blocks (n, channels) of a FLAC file; what is damaged is silent and added to `gaps`.

    libFLAC stops at damage, but each frame can be decoded by itself after the file's header.
    """
    done = 0  # frames
    try:
        for block in sound.read_blocks():
            done += len(block)
            yield block
        return
    except soundfile.LibsndfileError as error:
        problem = error
    file.seek(0)
    data = file.read()
    rate, channels, begin = sound.samplerate, sound.channels, done
    for number, frames, content in find_frames(data):
        if number < done:
            continue
        try:
            with _SoundFile(io.BytesIO(content)) as one:
                block = one.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            continue
        if len(block) < frames:
            continue
        if number > done:
            gaps.append((done / rate, number / rate))
            yield from silence(number - done, channels)
        yield block
        done = number + len(block)
    if done == begin:
        raise problem
    if done != stated:
        gaps.append((done / rate, max(done, stated) / rate))


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
        except (ValueError, OSError, OverflowError):  # of BytesIO and of a real file
            return self._file.tell()


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """A sound file that is read without seeking.

    After every read soundfile seeks to the current position, which resets the MP3 decoder: samples
    then depend on the block size, by up to 0.05, and the decoder prints warnings to stderr.
    """

    def __init__(self, file: Any) -> None:
        with discard_messages():
            super().__init__(file)

    def seekable(self) -> bool:
        return False

    def read(self, *arguments: Any, **options: Any) -> Any:
        with discard_messages():
            return super().read(*arguments, **options)

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
