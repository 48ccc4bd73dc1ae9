"""Containers of sound and video (mp4, webm and their relatives), decoded with PyAV."""

import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np

from asr.audio.recording import (
    BLOCK_FRAMES,
    MEDIA_TOLERANCE_SECONDS,
    Block,
    Recording,
    silence,
)
from asr.errors import AudioError

_JITTER_SECONDS = 0.03  # webm rounds times to milliseconds, and some recorders are less exact
_LONGEST_PAUSE = 6 * 3600.0  # seconds; a damaged time would be filled with silence for years


def open_media(file: BinaryIO, container_format: str, name: str, stack: ExitStack) -> Recording:
    """Open the sound of a container: the default audio stream, or the first that can be decoded.

    The format is given explicitly. If FFmpeg guessed it, a file could pose as a playlist and make it
    open other files or addresses. Raises AudioError.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name} is an mp4 or webm file and needs an optional package; install it with"
            " pip install 'lstm-asr[media]'"
        ) from error
    if container_format == "mov":
        _check_boxes(file, name)
    file.seek(0)
    try:
        container: Any = stack.enter_context(
            av.open(file, format=container_format, metadata_errors="replace")
        )
        stream = _choose_stream(container, name)
        timeline = _Timeline(container, stream, name)
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
        _find_seconds(container, stream),
        MEDIA_TOLERANCE_SECONDS,
        timeline.gaps,
        _describe_choice(container, stream, name),
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


def _choose_stream(container: Any, name: str) -> Any:
    streams = container.streams.audio
    if not streams:
        raise AudioError(f"{name} contains no audio stream; use a file with sound")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise AudioError(
            f"{name} has sound in a format that FFmpeg cannot decode; export it again, for example as"
            " AAC or Opus"
        )
    return next((stream for stream in decodable if int(stream.disposition) & 1), decodable[0])


def _describe_choice(container: Any, stream: Any, name: str) -> list[str]:
    streams = list(container.streams.audio)
    if len(streams) < 2:
        return []
    return [
        f"{name} has {len(streams)} audio tracks, and only track {streams.index(stream) + 1} is"
        " heard; export another one to hear it"
    ]


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


class _Timeline:
    """The sound of a stream at its presentation times, with the format of its first frame.

    A pause in the timeline becomes silence, and so does a packet that cannot be decoded, which is
    also added to `gaps`.
    """

    def __init__(self, container: Any, stream: Any, name: str) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._container, self._stream, self._name = container, stream, name
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
        shift = 0.0  # seconds from the stream's times to those of the recording
        done = 0.0  # seconds
        frame = self.first
        while frame is not None:
            if frame.pts is not None:
                pause = float(frame.pts * frame.time_base) + shift - done
                if pause < -_JITTER_SECONDS or (done == 0 and pause < 0):
                    shift -= pause  # the times jump back
                elif pause > _JITTER_SECONDS:
                    if pause > _LONGEST_PAUSE:
                        raise AudioError(
                            f"{self._name} has a pause of {pause / 3600:,.0f} hours in its timeline;"
                            " export it again"
                        )
                    yield from converter.finish()
                    if self._damaged:
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
