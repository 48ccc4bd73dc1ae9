"""What PyAV decodes: containers such as mp4, webm, avi and ts, and codecs such as AAC and AMR."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any, BinaryIO

import numpy as np

from asr.audio.recording import (
    BLOCK_FRAMES,
    MEDIA_TOLERANCE_SECONDS,
    Block,
    Recording,
    check_track,
    describe_choice,
    silence,
)
from asr.errors import AudioError

_JITTER_SECONDS = 0.03  # webm rounds times to milliseconds, and some recorders are less exact
_LONGEST_PAUSE = 6 * 3600.0  # seconds; a damaged time would be filled with silence for years

_DEMUXERS = {  # by the first bytes
    b"\x1aE\xdf\xa3": "matroska",  # webm and mkv
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",  # wma and wmv
    b"FLV\1": "flv",
    b"\0\0\1\xba": "mpeg",
    b"#!AMR": "amr",
    b"wvpk": "wv",
    b"TTA1": "tta",
}
_SUBSTITUTES = {
    b"RIFF": "wav",
    b"riff": "w64",
    b"FORM": "aiff",
    b"caff": "caf",
    b".snd": "au",
    b"OggS": "ogg",
    b"NIST": "nistsphere",
    b"Crea": "voc",
}
# Other formats do not state their duration, and FFmpeg guesses it from the bit rate.
_TIMED = frozenset("mov matroska asf flv avi wv tta wav w64 aiff caf".split())
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Clocks of these formats begin anywhere, at the time of a broadcast for example, and may jump.
_CLOCKS = frozenset("mpegts mpeg flv".split())
_LONGEST_CLOCK_PAUSE = 60.0  # seconds; a longer one is a jump
_PACKET_BYTES = 188  # of an MPEG transport stream


def find_demuxer(head: bytes) -> str | None:
    """Return FFmpeg's name of the format of a file with these first bytes, if PyAV must read it."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):  # old ones lack ftyp
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) >= 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS
    if len(head) >= 6 and head[:2] == b"\x0b\x77":
        return "eac3" if head[5] >> 3 > 10 else "ac3"
    for first in (0, 4):  # recorders may put a time before each packet
        if head[first :: _PACKET_BYTES + first][:3] == b"GGG":
            return "mpegts"
    return next((name for magic, name in _DEMUXERS.items() if head.startswith(magic)), None)


def find_substitute(head: bytes) -> str | None:
    """Return FFmpeg's name of a format whose rarer encodings libsndfile cannot decode."""
    return _SUBSTITUTES.get(head[:4])


def open_media(
    file: BinaryIO, demuxer: str, name: str, stack: ExitStack, track: int | None = None
) -> Recording:
    """Open an audio track, by default the container's own choice, or the first that can be decoded.

    The format is given explicitly. If FFmpeg guessed it, a file could pose as a playlist and make it
    open other files or addresses. Raises AudioError.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name} is in a format ({demuxer}) that needs an optional package; install it with pip"
            " install 'lstm-asr[media]'"
        ) from error
    if demuxer == "mov":
        _check_boxes(file, name)
    if demuxer == "asf":
        _check_asf_size(file, name)
    file.seek(0)
    try:
        container: Any = stack.enter_context(
            av.open(_SeekableFile(file), format=demuxer, metadata_errors="replace")
        )
        stream = _choose_stream(container, name, track)
        timeline = _Timeline(container, stream, name, demuxer in _CLOCKS)
        if demuxer == "mpegts":
            timeline.explains_pause = cache(partial(_loses_packets, file))
        first = timeline.first
    except AudioError:
        raise
    except Exception as error:  # PyAV raises several of Python's own for damaged files
        raise _media_error(name, error) from error
    return Recording(
        name,
        first.sample_rate,
        len(first.layout.channels),
        container.format.name,
        stream.codec_context.name,
        timeline.read_blocks(),
        None,
        _find_seconds(container, stream) if demuxer in _TIMED else 0.0,
        MEDIA_TOLERANCE_SECONDS,
        timeline.gaps,
        _describe_choice(container, stream, name) if track is None else [],
    )


def _check_boxes(file: BinaryIO, name: str) -> None:
    """Raise AudioError if an mp4 file consists of several, of which FFmpeg decodes only one."""
    end = file.seek(0, io.SEEK_END)
    at = movies = 0
    while at + 16 <= end:
        file.seek(at)
        size, kind, long_size = struct.unpack(">I4sQ", file.read(16))
        movies += kind == b"moov"
        size = long_size if size == 1 else size or end - at  # 0: to the end
        if size < 8:
            return  # damaged
        at += size
    if movies > 1:
        raise AudioError(
            f"{name} joins several recordings, and only one can be decoded; split it or export it"
            " again"
        )


def _check_asf_size(file: BinaryIO, name: str) -> None:
    """Raise AudioError if a wma file is shorter than it states; FFmpeg makes the duration fit."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return
    stated, flags = struct.unpack("<Q40xI", head[at + 40 : at + 92])
    if not flags & 1 and stated > size:  # otherwise it was broadcast, and states nothing
        raise AudioError(
            f"{name} is cut short (its header declares {stated:,} bytes, but only {size:,} are"
            " present); copy or export it again"
        )


def _loses_packets(file: BinaryIO) -> bool:
    """Return whether an MPEG transport stream has bytes that are no packets.

    FFmpeg leaves them out, and what they contained is a pause.
    """
    at = file.tell()
    file.seek(0)
    first = 0 if file.read(1) == b"G" else 4
    size = _PACKET_BYTES + first
    file.seek(first)
    while data := file.read(size << 12):
        if data[::size].strip(b"G"):
            break
    file.seek(at)
    return bool(data)


def _choose_stream(container: Any, name: str, track: int | None) -> Any:
    streams = container.streams.audio
    if not streams:
        raise AudioError(f"{name} contains no audio stream; use a file with sound")
    check_track(track, len(streams), name)
    if track:
        streams = streams[track - 1 : track]
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise AudioError(
            f"{name} has sound in a format that FFmpeg cannot decode; export it again, for example as"
            " AAC or Opus"
        )
    return next((stream for stream in decodable if int(stream.disposition) & 1), decodable[0])


def _describe_choice(container: Any, stream: Any, name: str) -> list[str]:
    streams = list(container.streams.audio)
    return describe_choice(streams.index(stream) + 1, len(streams), name)


def _find_seconds(container: Any, stream: Any) -> float:
    """Return the duration that the container states, 0 if none."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / 1_000_000)  # the audio is the only stream
    return 0.0


def _media_error(name: str, error: Exception) -> AudioError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return AudioError(
        f"{name} is damaged or cut short and cannot be decoded ({reason}); copy or export it again"
    )


class _SeekableFile:
    """A file that refuses an invalid position with -1, as FFmpeg expects.

    On a damaged header FFmpeg may seek to before the beginning of a file; PyAV prints all but the
    first of the exceptions that this raises.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError, OverflowError):  # of BytesIO and of a real file
            return -1


class _Timeline:
    """The sound of a stream at its presentation times, with the format of its first frame.

    A pause in the timeline becomes silence, and so does a packet that cannot be decoded, which is
    also added to `gaps`.
    """

    def __init__(self, container: Any, stream: Any, name: str, has_clock: bool) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._has_clock = has_clock
        self._begin = (container.start_time or 0) / 1_000_000 if has_clock else 0.0  # seconds
        self._container, self._stream, self._name = container, stream, name
        self.explains_pause: Callable[[], bool] = lambda: False  # whether damage explains a pause
        self._damaged = False  # since the last frame
        self._error: Exception | None = None
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise self._fail()
        self.first: Any = first

    def _fail(self) -> AudioError:
        if self._error:
            return _media_error(self._name, self._error)
        return AudioError(f"{self._name} contains no samples; record or export it again")

    def _decode(self) -> Iterator[Any]:
        """Yield the frames of sound; those of a damaged packet are left out."""
        import av

        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if isinstance(error, av.EOFError):
                    return
                self._damaged, self._error = True, error
                continue
            yield from (frame for frame in frames if frame.samples)

    def read_blocks(self) -> Iterator[Block]:
        """Yield the blocks (n, channels). Raises AudioError."""
        try:
            yield from self._read()
        except AudioError:
            raise
        except Exception as error:  # see `open_media`
            raise _media_error(self._name, error) from error

    def _read(self) -> Iterator[Block]:
        rate, channels = self.first.sample_rate, len(self.first.layout.channels)
        converter = _Converter(self.first)
        shift = -self._begin  # seconds from the stream's times to those of the recording
        done = 0.0  # seconds
        frame = self.first
        while frame is not None:
            if frame.pts is not None:
                pause = float(frame.pts * frame.time_base) + shift - done
                jumps = self._has_clock and pause > _LONGEST_CLOCK_PAUSE
                if pause < -_JITTER_SECONDS or (done == 0 and pause < 0) or jumps:
                    shift -= pause
                elif pause > _JITTER_SECONDS:
                    if pause > _LONGEST_PAUSE:
                        raise AudioError(
                            f"{self._name} has a pause of {pause / 3600:,.0f} hours in its timeline;"
                            " export it again"
                        )
                    yield from converter.finish()
                    if self._damaged or self.explains_pause():
                        self.gaps.append((done, done + pause))
                    yield from silence(round((done + pause) * rate) - round(done * rate), channels)
                    done += pause
                elif self._damaged:
                    self.gaps.append((done, done))
            self._damaged = False
            yield from converter.convert(frame)
            done += frame.samples / frame.sample_rate
            frame = next(self._frames, None)
        yield from converter.finish()
        if self._damaged:
            self.gaps.append((done, done))


class _Converter:
    """Turns frames of any sample rate and channels into blocks with those of the first frame."""

    def __init__(self, first: Any) -> None:
        self._target = first.layout.name, first.sample_rate
        self._source: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def convert(self, frame: Any) -> Iterator[Block]:
        """Take the next frame and yield the blocks (n, channels) that are ready."""
        import av

        source = frame.format.name, frame.layout.name, frame.sample_rate
        if source != self._source:
            yield from self.finish()
            self._source = source
            self._resampler = av.AudioResampler("fltp", *self._target, BLOCK_FRAMES)
        frame.pts = None
        yield from self._to_blocks(self._resampler.resample(frame))

    def finish(self) -> Iterator[Block]:
        """Yield what is left, before a frame of another format or a pause."""
        if self._resampler is not None:
            yield from self._to_blocks(self._resampler.resample(None))
        self._source = self._resampler = None

    @staticmethod
    def _to_blocks(frames: Any) -> Iterator[Block]:
        for frame in frames:
            yield np.ascontiguousarray(frame.to_ndarray().T)  # (n, channels)
