"""Opening recordings of every format, and checking that a file has what its header promises."""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from asr.audio.mp3 import DECODER_DELAY, Block, is_mp3, measure_frame, read_xing, skip_tags, trim
from asr.errors import AudioError

BLOCK_FRAMES = 65_536  # samples per channel in a decoded block; larger ones leave the CPU cache
# Allowed difference from the duration in the header; encoders differ by up to two MP3 frames.
TOLERANCE_SECONDS = 0.05
MEDIA_TOLERANCE_SECONDS = 0.25  # mp4 and webm count the codec's delay of up to 0.15 s as duration

Waveform = npt.NDArray[np.float32]  # (N,)


@dataclass
class Recording:
    """An open recording: the contents of its header, and its samples on demand."""

    name: str
    sample_rate: int
    channels: int
    format: str
    subtype: str
    blocks: Iterator[Block]
    frames: int | None  # samples per channel; None if only decoding can count them
    estimated_seconds: float = 0.0  # duration in the header if `frames` is None; 0 if unknown

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
        tolerance = MEDIA_TOLERANCE_SECONDS if self.frames is None else TOLERANCE_SECONDS
        seconds = decoded / self.sample_rate
        if promised - seconds > tolerance:
            raise AudioError(
                f"{self.name} is damaged or cut short (its header promises {promised:.2f} s, and"
                f" {seconds:.2f} s can be decoded); copy or export it again"
            )


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
        return _open_media(file, "mov", name, stack)
    if magic[:4] == b"\x1aE\xdf\xa3":  # EBML: webm, mkv
        return _open_media(file, "matroska", name, stack)
    if magic[:3] == b"ID3" or is_mp3(magic):
        file.seek(0)
        data = file.read()
        start = skip_tags(data)
        if is_mp3(data[start : start + 4]):
            return _open_mp3(data, start, name, stack)
    elif magic[:4] == b"OggS":
        _check_ogg(file, name)
    file = _check_size(file, magic, name)
    file.seek(0)
    sound: _SoundFile = stack.enter_context(_SoundFile(_TolerantFile(file)))
    return sound.to_recording(name, sound.frames, sound.read_blocks())


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


# By magic number: offset of the first chunk, length of a chunk's id, struct format of its size,
# alignment of chunks, and id of the chunk that contains the samples.
_CHUNKS = {
    b"RIFF": (12, 4, "<I", 2, b"data"),
    b"RIFX": (12, 4, ">I", 2, b"data"),
    b"RF64": (12, 4, "<I", 2, b"data"),
    b"BW64": (12, 4, "<I", 2, b"data"),
    b"FORM": (12, 4, ">I", 2, b"SSND"),  # AIFF
    b"riff": (40, 16, "<q", 8, b"data"),  # Sony Wave64
    b"caff": (8, 4, ">q", 1, b"data"),
}


def _check_size(file: BinaryIO, magic: bytes, name: str) -> BinaryIO:
    """Raise AudioError if a file ends before its samples do; return the file to decode.

    A program that writes into a pipe cannot fill in the size afterwards and leaves 0, all ones or
    about 2 GiB. Such a file is read to its end.
    """
    found = _find_samples(file, magic[:4])
    if found is None:
        return file
    start, size = found
    available = file.seek(0, io.SEEK_END) - start
    if magic[:4] == b"RIFF" and size == 0:
        whole = struct.unpack("<I", magic[4:8])[0] + 8
        if available and (whole <= start or _is_placeholder(whole)):
            file.seek(0)
            content = bytearray(file.read())
            content[start - 4 : start] = b"\xff\xff\xff\xff"  # libsndfile would read 0 samples
            return io.BytesIO(content)
    if size > available and not _is_placeholder(size):
        raise AudioError(
            f"{name} is cut short (its header declares {size:,} bytes of samples, but"
            f" only {max(available, 0):,} are present); copy or export it again"
        )
    return file


def _is_placeholder(size: int) -> bool:
    """Return whether a 32-bit size, signed or unsigned, stands for "until the end"."""
    return any(abs(size - limit) <= 1 << 16 for limit in (1 << 31, 1 << 32))


def _find_samples(file: BinaryIO, magic: bytes) -> tuple[int, int] | None:
    """Return the offset of the samples and their promised bytes; None if the header has neither."""
    if magic in (b".snd", b"dns."):  # AU
        file.seek(4)
        sizes = file.read(8)
        if len(sizes) < 8:
            return None
        start, size = struct.unpack(">II" if magic == b".snd" else "<II", sizes)
        return start, size
    if magic == b"NIST":
        return _read_sphere(file)
    return _find_chunk(file, magic) if magic in _CHUNKS else None


def _read_sphere(file: BinaryIO) -> tuple[int, int] | None:
    """Implement `_find_samples` for NIST SPHERE files."""
    file.seek(0)
    lines = [line.split() for line in file.read(1024).splitlines()]
    fields = {line[0]: line[2] for line in lines if len(line) == 3}
    try:
        keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
        count, channels, width = (int(fields[key]) for key in keys)
        return int(lines[1][0]), count * channels * width
    except (KeyError, ValueError, IndexError):
        return None


def _find_chunk(file: BinaryIO, magic: bytes) -> tuple[int, int] | None:
    """Implement `_find_samples` for files that consist of chunks."""
    position, id_bytes, size_format, alignment, wanted = _CHUNKS[magic]
    long_size = None
    end = file.seek(0, io.SEEK_END)
    while 0 <= position < end:  # a damaged size may point outside the file
        file.seek(position)
        head = file.read(id_bytes + struct.calcsize(size_format))
        if len(head) < id_bytes + struct.calcsize(size_format):
            return None
        size = struct.unpack(size_format, head[id_bytes:])[0]
        if magic == b"riff":
            size -= len(head)
        start = position + len(head)
        if head[:4] == wanted:
            return start, long_size if size == 0xFFFFFFFF and long_size is not None else size
        if size < 0 or head[0] == 0:
            return None
        if head[:4] == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        position = start + size + -size % alignment
    return None


def _check_ogg(file: BinaryIO, name: str) -> None:
    """Raise AudioError if an Ogg file's last page is incomplete or it is a chain of streams.

    libsndfile decodes only the first stream of a chain. A missing end-of-stream flag is accepted, as
    RFC 7845 requires. Pages: RFC 3533, section 6.
    """
    file.seek(14)
    serial = file.read(4)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 65_307, 0))  # the maximum size of a page
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    end = 27 + segments + sum(page[27 : 27 + segments])
    if len(page) < end or page[end:] in (b"O", b"Og", b"Ogg"):  # the next page has just begun
        raise AudioError(
            f"{name} is cut short (its last page is incomplete); copy or export it again"
        )
    if page[14:18] != serial:
        raise AudioError(
            f"{name} joins several recordings, and only the first can be decoded; split it or"
            " export it again"
        )


def _open_mp3(data: bytes, start: int, name: str, stack: ExitStack) -> Recording:
    """Decode the frames from `start` to the end of the stream.

    libsndfile stops at the length in the Xing header. Without a header it estimates the length,
    which can lose half of a variable-bit-rate stream. Therefore the decoder gets a Xing header that
    declares more frames than any file has, followed by a silent frame from which it trims its
    delay. The true header is applied to the decoded samples here.
    """
    xing = read_xing(data[start : start + 4096])
    largest = bytes([0xFF, data[start + 1] | 1, 0xE0 | data[start + 2] & 0x0C, data[start + 3]])
    frame_bytes, frame_samples, at = measure_frame(largest)
    silence = largest.ljust(frame_bytes, b"\0")
    endless = (largest.ljust(at, b"\0") + b"Xing\0\0\0\1\x7f\xff\xff\xff").ljust(frame_bytes, b"\0")
    file = io.BytesIO(endless + silence + data[start + xing.frame_bytes :])
    sound: _SoundFile = stack.enter_context(_SoundFile(file))
    blocks = trim(sound.read_blocks(), frame_samples - DECODER_DELAY + xing.skip, xing.drop)
    return sound.to_recording(name, xing.samples, blocks)


def _open_media(file: BinaryIO, container_format: str, name: str, stack: ExitStack) -> Recording:
    """Decode the first audio stream of an mp4 or webm container with PyAV.

    The format is given explicitly. If FFmpeg guessed it, a file could pose as a playlist and make it
    open other files or addresses.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name} is an mp4 or webm file and needs an optional package; install it with"
            " pip install 'lstm-asr[media]'"
        ) from error
    file.seek(0)
    try:
        container: Any = stack.enter_context(av.open(file, format=container_format))
    except av.FFmpegError as error:
        raise _media_error(name, error) from error
    if not container.streams.audio:
        raise AudioError(f"{name} contains no audio stream; use a file with sound")
    stream = container.streams.audio[0]
    rate = stream.codec_context.sample_rate

    def decode() -> Iterator[Block]:
        resampler: Any = av.AudioResampler("fltp", stream.codec_context.layout, rate, BLOCK_FRAMES)
        try:
            for frame in chain(container.decode(stream), [None]):  # None: the end
                for block in resampler.resample(frame):
                    yield block.to_ndarray().T  # (n, channels)
        except av.FFmpegError as error:
            raise _media_error(name, error) from error

    seconds = 0.0
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        seconds = container.duration / 1_000_000  # the audio is the only stream
    codec, blocks = stream.codec_context, decode()
    return Recording(
        name, rate, codec.channels, container.format.name, codec.name, blocks, None, seconds
    )


def _media_error(name: str, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or error
    return AudioError(
        f"{name} is damaged or cut short and cannot be decoded ({reason}); copy or export it again"
    )
