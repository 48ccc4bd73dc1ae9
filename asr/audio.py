"""Audio in, waveforms out: any file, bytes or pipe becomes mono float32 samples at one rate.

    path | bytes | pipe --> blocks (n, channels) --> mean of the channels --> soxr --> (N,) float32

soundfile decodes (wav, flac, mp3, ogg, opus, aiff, au, sph, w64, caf, ...); PyAV decodes what lies
in an mp4 or webm container (extra `media`). Both return a recording that was cut short without an
error, so what a header promises is compared here with what is there: better refuse a file than
lose the end of a sentence silently.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asr.errors import AudioError

SAMPLE_RATE = 16_000
BLOCK_FRAMES = 65_536  # the one size in which everything is decoded; larger ones leave the cache
TOLERANCE_SECONDS = 0.05  # two MP3 frames: what encoders may disagree on
LOUDEST = 1e6  # times full scale: floats of another scale may be 32,768, damaged ones anything
MEDIA_TOLERANCE_SECONDS = 0.25  # mp4 and webm count the codec's delay of up to 0.15 s as duration

# fmt: off
EXTENSIONS = frozenset((
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".sph", ".nist",
    ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf",
    ".m4a", ".m4b", ".mp4", ".mov", ".webm", ".mka", ".mkv",  # by PyAV
))
# fmt: on

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any]
Waveform = npt.NDArray[np.float32]  # (N,)
Block = npt.NDArray[np.float32]  # (n, channels)


@dataclass(frozen=True)
class AudioInfo:
    """What a recording is before downmixing and resampling; `frames` are samples per channel."""

    seconds: float
    sample_rate: int
    channels: int
    format: str
    subtype: str
    frames: int


def load_audio(
    source: AudioSource,
    sample_rate: int = SAMPLE_RATE,
    *,
    expected_seconds: float | None = None,
) -> Waveform:
    """The whole recording as one waveform: exactly the concatenation of `read_blocks`.

    Args:
        source: a path, the bytes of a file, or a binary file, which is read from where it stands to
            its end and need not be seekable; or samples (N,) at `sample_rate`, float32 in -1..1 or
            int16.
        sample_rate: samples per second of the result.
        expected_seconds: the duration that a manifest states. A recording that differs by more than
            50 ms in either direction is refused: shorter, it lost speech that its transcript has;
            longer, the manifest describes another recording and batches planned by it overflow.

    Returns:
        Float32 samples (N,), mono, in -1..1 unless the file itself goes beyond; never empty.

    Raises:
        AudioError: the recording is missing, unreadable, empty, damaged, cut short or not finite.
    """
    return np.concatenate(list(read_blocks(source, sample_rate, expected_seconds=expected_seconds)))


def read_blocks(
    source: AudioSource,
    sample_rate: int = SAMPLE_RATE,
    *,
    expected_seconds: float | None = None,
) -> Iterator[Waveform]:
    """The recording as consecutive waveforms (n,), decoded in blocks of one fixed size.

    What a header alone reveals is refused before the first block, what only decoding reveals (NaN,
    a stream that ends early) where it is met. Arguments, units and errors: see `load_audio`.
    """
    if isinstance(source, np.ndarray):
        waveform = to_waveform(source, sample_rate)
        if not len(waveform):
            raise AudioError("the array holds no samples; give it some")
        _check_seconds("the array", len(waveform) / sample_rate, expected_seconds)
        yield waveform
        return
    with _open(source) as recording:
        resampler = Resampler(recording.sample_rate, sample_rate)
        decoded = 0  # frames
        samples = 0
        for block in recording.blocks:  # (n, channels)
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                # channel by channel: 20 times faster than block.mean(axis=1)
                mono = np.ascontiguousarray(block.T).mean(axis=0)
            finite = np.isfinite(mono)
            if not finite.all():
                seconds = (decoded + int(finite.argmin())) / recording.sample_rate
                raise AudioError(
                    f"{recording.name} holds samples that are not finite numbers, the first at"
                    f" {seconds:.3f} s; export it again"
                )
            if max(-float(mono.min(initial=0)), float(mono.max(initial=0))) > LOUDEST:
                raise AudioError(
                    f"{recording.name} holds samples of more than {LOUDEST:,.0f} where 1 is full"
                    " scale; export it again"
                )
            decoded += len(block)
            waveform = resampler.feed(mono)
            samples += len(waveform)
            if len(waveform):
                yield waveform
        recording.check_length(decoded, sample_rate)
        waveform = resampler.finish()
        samples += len(waveform)
        if len(waveform):
            yield waveform
        _check_seconds(recording.name, samples / sample_rate, expected_seconds)


def _check_seconds(name: str, seconds: float, expected: float | None) -> None:
    if expected is not None and abs(seconds - expected) > TOLERANCE_SECONDS:
        raise AudioError(
            f"{name} lasts {seconds:.2f} s where {expected:.2f} s are expected; copy it again if it"
            " was cut short, or else correct the manifest"
        )


def to_waveform(
    samples: npt.NDArray[Any],
    sample_rate: int,
    before: int = 0,
    name: str = "the array",
    advice: str = "look where they come from",
) -> Waveform:
    """Samples (N,), float32 or int16, as a waveform in memory of its own; N may be 0.

    `before` samples of the signal came before; `name` and `advice` are for messages. Raises
    AudioError for another type or shape, and for samples that are not finite or beyond all reason.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.float32, np.int16):
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(f"{name} must be a NumPy array of float32 or int16, not {kind}")
    if samples.ndim != 1:
        raise AudioError(
            f"samples of shape {samples.shape} are not one channel: give an array of shape (N,)"
        )
    waveform = np.array(samples, np.float32)
    if samples.dtype == np.int16:
        waveform /= 32_768
    sound = np.abs(waveform) <= LOUDEST  # false for NaN too
    if not sound.all():
        seconds = (before + int(sound.argmin())) / sample_rate
        raise AudioError(
            f"{name} holds samples that are not finite numbers, or of more than {LOUDEST:,.0f} where"
            f" 1 is full scale, the first at {seconds:.3f} s; {advice}"
        )
    return waveform


def load_channels(source: AudioSource, seconds: float) -> Block:
    """The first seconds of a recording as they are in the file: (n, channels), at its own rate.

    Raises the AudioErrors of `load_audio` that are met until then.
    """
    blocks, frames = [], 0
    with _open(source) as recording:
        wanted = round(seconds * recording.sample_rate)
        for block in recording.blocks:
            blocks.append(block)
            frames += len(block)
            if frames >= wanted:
                break
        else:
            recording.check_length(frames)
    return np.concatenate(blocks)[:wanted]


def inspect_audio(source: AudioSource) -> AudioInfo:
    """Duration and format of a recording from its header, in the units of the file itself.

    Where no header states a length (mp3 without a Xing header, mp4, webm) the recording is decoded
    to count its samples. Raises the AudioErrors of `load_audio` that a header alone reveals.
    """
    with _open(source) as recording:
        frames = recording.frames
        if frames is None:
            frames = sum(len(block) for block in recording.blocks)
        recording.check_length(frames)
        return AudioInfo(
            seconds=frames / recording.sample_rate,
            sample_rate=recording.sample_rate,
            channels=recording.channels,
            format=recording.format,
            subtype=recording.subtype,
            frames=frames,
        )


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """All recordings in a folder and below, sorted, known by their extension in any case.

    Hidden files are left out: macOS archives hold a `._x.wav` of metadata beside each `x.wav`.
    Raises AudioError where there is no such folder; the list may be empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder; name one that holds recordings")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play faster (factor > 1) or slower by resampling: tempo and pitch change together.

    Returns exactly round(N / factor) samples for N; speed perturbation as in Ko et al. 2015,
    "Audio augmentation for speech recognition". Raises AudioError for a factor of 0 or below.
    """
    if not 0 < factor < float("inf"):
        raise AudioError(
            f"a speed factor of {factor} is impossible; choose one above 0, such as 1.1"
        )
    if factor == 1:
        return waveform
    samples = round(len(waveform) / factor)
    faster: Waveform = soxr.resample(waveform, factor, 1.0)[:samples]
    return np.pad(faster, (0, samples - len(faster)))  # soxr promises no exact length


class Resampler:
    """Changes the sample rate of one signal that arrives in pieces.

    Whatever the pieces, their results join to what one call would give. The filter looks ahead, so
    a piece's result comes in part with later pieces or with `finish`, which ends the signal.
    Quality: soxr HQ, whose stop band lies below the 16-bit noise floor.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._stream = (
            None
            if source_rate == target_rate
            else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
        )

    def feed(self, waveform: Waveform) -> Waveform:
        """The samples (m,) that became certain with the samples (n,) of `waveform`."""
        if self._stream is None:
            return waveform
        return cast(Waveform, self._stream.resample_chunk(waveform))

    def finish(self) -> Waveform:
        """The samples (m,) that were still waiting for their future; the signal ends here."""
        nothing = np.zeros(0, dtype=np.float32)
        if self._stream is None:
            return nothing
        return cast(Waveform, self._stream.resample_chunk(nothing, last=True))


@dataclass
class _Recording:
    """An open recording: what its header says, and its samples on demand."""

    name: str
    sample_rate: int
    channels: int
    format: str
    subtype: str
    blocks: Iterator[Block]
    frames: int | None  # None where only decoding tells
    rough_seconds: float = 0.0  # what is known without `frames`

    def check_length(self, decoded: int, sample_rate: int | None = None) -> None:
        """Raises AudioError where fewer frames are there than promised, or too few for a sample."""
        if 2 * decoded * (sample_rate or self.sample_rate) < self.sample_rate:  # as soxr rounds
            raise AudioError(f"{self.name} holds no samples; record or export it again")
        promised, tolerance = self.rough_seconds, MEDIA_TOLERANCE_SECONDS
        if self.frames is not None:
            promised, tolerance = self.frames / self.sample_rate, TOLERANCE_SECONDS
        seconds = decoded / self.sample_rate
        if promised - seconds > tolerance:
            raise AudioError(
                f"{self.name} is damaged or cut short: its header promises {promised:.2f} s and"
                f" {seconds:.2f} s can be decoded; copy or export it again"
            )


@contextmanager
def _open(source: AudioSource) -> Iterator[_Recording]:
    name = _name(source)
    with ExitStack() as stack:
        file = stack.enter_context(_open_bytes(source, name))
        magic = file.read(12)
        if not magic:
            raise AudioError(f"{name} is empty (0 bytes); record or copy it again")
        try:
            recording = _recognise(file, magic, name, stack)
            if not 1_000 <= recording.sample_rate <= 1_000_000:
                raise AudioError(
                    f"{name} claims an impossible {recording.sample_rate:,} samples per second;"
                    " export it again"
                )
            yield recording
        except soundfile.LibsndfileError as error:
            if error.code == 1:  # SF_ERR_UNRECOGNISED_FORMAT
                raise AudioError(
                    f"{name} is not audio in a known format; convert it to wav, flac, mp3 or ogg"
                ) from error
            raise AudioError(
                f"{name} is damaged and cannot be decoded; copy or export it again"
            ) from error


def _name(source: AudioSource) -> str:
    """How messages call a source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source):,} bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def _open_bytes(source: AudioSource, name: str) -> BinaryIO:
    """The encoded recording as a seekable file at its beginning."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            if Path(source).is_dir():
                raise AudioError(f"{name} is a folder, not a recording; name the files in it")
            file = io.FileIO(source)
            if file.seekable():
                file.name = ""  # by which soundfile takes whatever is named .raw for headerless
                return io.BufferedReader(file)
            with file:  # a named pipe
                return io.BytesIO(file.read())
        if isinstance(source, np.ndarray | io.TextIOBase) or not hasattr(source, "read"):
            raise AudioError(
                f"{name} is no source of audio; give a path, bytes, a binary file or samples"
            )
        return io.BytesIO(source.read())
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check the path") from error
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{name} cannot be opened ({reason}); check its access rights") from error


def _recognise(file: BinaryIO, magic: bytes, name: str, stack: ExitStack) -> _Recording:
    """Open with the decoder that the first bytes, not the file's name, ask for."""
    if magic[4:8] == b"ftyp":
        return _open_media(file, "mov", name, stack)
    if magic[:4] == b"\x1aE\xdf\xa3":  # EBML: webm, mkv
        return _open_media(file, "matroska", name, stack)
    if magic[:3] == b"ID3" or _is_mp3(magic):
        file.seek(0)
        data = file.read()
        start = _skip_tags(data)
        if _is_mp3(data[start : start + 4]):
            return _open_mp3(data, start, name, stack)
    elif magic[:4] == b"OggS":
        _check_ogg(file, name)
    file = _check_size(file, magic, name)
    file.seek(0)
    sound: _SoundFile = stack.enter_context(_SoundFile(_Tolerant(file)))
    return sound.record(name, sound.frames, sound.read_blocks())


class _Tolerant:
    """A file for libsndfile, which in a damaged header can ask for a place before its beginning.

    Such a seek leaves it where it is; an error inside libsndfile's callback would be printed and lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.read = file.read
        self.readinto = file.readinto  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):  # from bytes and from a file
            return self._file.tell()


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
    """Reads straight on. soundfile seeks after every read, to where it already is, which makes an
    MP3 decoder start afresh: samples then depend on the block size, by up to 0.05, and it says so
    on stderr.
    """

    def seekable(self) -> bool:
        return False

    def read_blocks(self) -> Iterator[Block]:
        while len(block := self.read(out=np.empty((BLOCK_FRAMES, self.channels), np.float32))):
            yield block

    def record(self, name: str, frames: int | None, blocks: Iterator[Block]) -> _Recording:
        return _Recording(
            name, self.samplerate, self.channels, self.format, self.subtype, blocks, frames
        )


# ---- What the header promises, against what is there -------------------------------------------

# magic: where the chunks begin, bytes of a chunk's id, format of its size, alignment, samples' id
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
    """Refuse a file that ends before its samples do; returns the file to decode.

    Who writes into a pipe cannot go back to state the size and leaves 0, all ones or about 2 GiB:
    such a file is taken to its end.
    """
    promise = _find_samples(file, magic[:4])
    if promise is None:
        return file
    start, size = promise
    available = file.seek(0, io.SEEK_END) - start
    if magic[:4] == b"RIFF" and size == 0:
        whole = struct.unpack("<I", magic[4:8])[0] + 8
        if available and (whole <= start or _is_unknown(whole)):
            file.seek(0)
            mended = bytearray(file.read())
            mended[start - 4 : start] = b"\xff\xff\xff\xff"  # libsndfile takes 0 at its word
            return io.BytesIO(mended)
    if size > available and not _is_unknown(size):
        raise AudioError(
            f"{name} is cut short: its header promises {size:,} bytes of samples and"
            f" {max(available, 0):,} are there; copy or export it again"
        )
    return file


def _is_unknown(size: int) -> bool:
    """Whether a size is one that stands for "until the end" (of 32 bits, signed or unsigned)."""
    return any(abs(size - limit) <= 1 << 16 for limit in (1 << 31, 1 << 32))


def _find_samples(file: BinaryIO, magic: bytes) -> tuple[int, int] | None:
    """Where the samples begin and how many bytes of them the header promises, if it does."""
    if magic in (b".snd", b"dns."):  # AU
        file.seek(4)
        sizes = file.read(8)
        if len(sizes) < 8:
            return None
        start, size = struct.unpack(">II" if magic == b".snd" else "<II", sizes)
        return start, size
    if magic == b"NIST":  # SPHERE
        file.seek(0)
        lines = [line.split() for line in file.read(1024).splitlines()]
        fields = {line[0]: line[2] for line in lines if len(line) == 3}
        try:
            keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
            count, channels, width = (int(fields[key]) for key in keys)
            return int(lines[1][0]), count * channels * width
        except (KeyError, ValueError, IndexError):
            return None
    if magic not in _CHUNKS:
        return None
    position, id_bytes, size_format, alignment, wanted = _CHUNKS[magic]
    long_size = None
    end = file.seek(0, io.SEEK_END)
    while 0 <= position < end:  # a damaged size can point anywhere
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
    """Refuse an Ogg file whose last page is cut, or of joined recordings: all but one would be lost.

    A missing end-of-stream flag is accepted, as RFC 7845 asks. Pages: RFC 3533, section 6.
    """
    file.seek(14)
    serial = file.read(4)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 65_307, 0))  # the largest page
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    if len(page) < 27 or len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        raise AudioError(
            f"{name} is cut short: its last page is incomplete; copy or export it again"
        )
    if page[:4] == b"OggS" and page[14:18] != serial:
        raise AudioError(
            f"{name} joins several recordings, of which only the first can be decoded; split it or"
            " export it again"
        )


# ---- MP3 ----------------------------------------------------------------------------------------

_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_DECODER_DELAY = 529  # samples that every decoder of Layer III adds in front


def _is_mp3(head: bytes) -> bool:
    """Whether the bytes begin with the header of an MPEG Layer III frame."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE6 == 0xE2
        and (head[1] >> 3) & 3 in _MP3_RATES
        and head[2] >> 4 != 15
        and (head[2] >> 2) & 3 != 3
    )


def _measure_frame(head: bytes) -> tuple[int, int, int]:
    """Bytes in the frame that begins here, samples in it, and where its side information ends."""
    version, is_mono = (head[1] >> 3) & 3, head[3] >> 6 == 3
    rate = _MP3_RATES[version][(head[2] >> 2) & 3]
    padding = (head[2] >> 1) & 1
    if version == 3:
        kbps = _MPEG1_KBPS[head[2] >> 4]
        return 144_000 * kbps // rate + padding, 1152, 4 + (17 if is_mono else 32)
    kbps = _MPEG2_KBPS[head[2] >> 4]
    return 72_000 * kbps // rate + padding, 576, 4 + (9 if is_mono else 17)


def _skip_tags(data: bytes) -> int:
    """Where the first frame begins after ID3v2 tags and the zeros that may pad them."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        sizes = data[start + 6 : start + 10]  # 7 bits each
        footer = 10 if data[start + 5] & 0x10 else 0
        start += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]) + footer
        start = len(data) - len(data[start:].lstrip(b"\0"))
    return start


def _open_mp3(data: bytes, start: int, name: str, stack: ExitStack) -> _Recording:
    """Decode the frames that begin at `start`, to their end.

    libsndfile stops where the Xing header says or, without one, at its estimate, which is early by
    half where the bit rate varies. So the decoder is given a Xing header that promises more frames
    than any file has, and a silent frame for it to trim its delay from; the true header is applied
    here.
    """
    xing = _read_xing(data[start : start + 4096])
    largest = bytes([0xFF, data[start + 1] | 1, 0xE0 | data[start + 2] & 0x0C, data[start + 3]])
    frame_bytes, frame_samples, at = _measure_frame(largest)
    silence = largest.ljust(frame_bytes, b"\0")
    endless = (largest.ljust(at, b"\0") + b"Xing\0\0\0\1\x7f\xff\xff\xff").ljust(frame_bytes, b"\0")
    file = io.BytesIO(endless + silence + data[start + xing.frame_bytes :])
    sound: _SoundFile = stack.enter_context(_SoundFile(file))
    blocks = _trim(sound.read_blocks(), frame_samples - _DECODER_DELAY + xing.skip, xing.drop)
    return sound.record(name, xing.samples, blocks)


@dataclass(frozen=True)
class _Xing:
    frame_bytes: int = 0  # of the frame that holds the header instead of sound
    samples: int | None = None  # per channel, promised
    skip: int = 0  # samples of the encoder's and decoder's delay
    drop: int = 0  # samples of padding at the end


def _read_xing(data: bytes) -> _Xing:
    """The Xing (or Info) header of an MP3, with the delays that LAME and FFmpeg add to it.

    Source: http://gabriel.mp3-tech.org/mp3infotag.html
    """
    frame_bytes, frame_samples, at = _measure_frame(data)
    names = (b"Xing", b"Info")
    if not data[1] & 1 and data[at : at + 4] not in names:
        at += 2  # some encoders put the frame's checksum first
    if data[at : at + 4] not in names or len(data) < at + 8 or frame_bytes < at + 8:
        return _Xing()
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
        skip = (delays >> 12) + _DECODER_DELAY
        drop = max((delays & 0xFFF) - _DECODER_DELAY, 0)
    samples = None if promised is None else max(promised - skip - drop, 0)
    return _Xing(frame_bytes, samples, skip, drop)


def _trim(blocks: Iterator[Block], skip: int, drop: int) -> Iterator[Block]:
    """The blocks without the first `skip` and the last `drop` frames."""
    held: Block | None = None
    for block in blocks:
        kept = block[skip:]
        skip -= len(block) - len(kept)
        kept = kept if held is None else np.concatenate((held, kept))
        end = max(len(kept) - drop, 0)
        yield kept[:end]
        held = kept[end:]


# ---- Containers of other codecs (m4a, mp4, webm), by the optional extra ------------------------


def _open_media(file: BinaryIO, container_format: str, name: str, stack: ExitStack) -> _Recording:
    """Decode the first audio stream of an mp4 or webm container with PyAV.

    The format is stated, never guessed, so that no file can make FFmpeg follow it elsewhere, as its
    playlist formats do.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name} is an mp4 or webm file, which needs an optional package; install it with"
            " pip install 'asr[media]'"
        ) from error
    file.seek(0)
    try:
        container: Any = stack.enter_context(av.open(file, format=container_format))
    except av.FFmpegError as error:
        raise _media_error(name, error) from error
    if not container.streams.audio:
        raise AudioError(f"{name} holds no audio stream; name a file that has sound")
    stream = container.streams.audio[0]
    rate = stream.codec_context.sample_rate

    def decode() -> Iterator[Block]:
        resampler: Any = av.AudioResampler("fltp", stream.codec_context.layout, rate, BLOCK_FRAMES)
        try:
            for frame in container.decode(stream):
                for block in resampler.resample(frame):
                    yield block.to_ndarray().T  # (n, channels)
            for block in resampler.resample(None):
                yield block.to_ndarray().T
        except av.FFmpegError as error:
            raise _media_error(name, error) from error

    rough_seconds = 0.0
    if stream.duration is not None:
        rough_seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:  # no longer picture
        rough_seconds = container.duration / 1_000_000
    return _Recording(
        name=name,
        sample_rate=rate,
        channels=stream.codec_context.channels,
        format=container.format.name,
        subtype=stream.codec_context.name,
        blocks=decode(),
        frames=None,
        rough_seconds=rough_seconds,
    )


def _media_error(name: str, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or error
    return AudioError(
        f"{name} cannot be decoded ({reason}); it is damaged or cut short: copy or export it again"
    )
