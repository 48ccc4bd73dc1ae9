"""Recordings for the tests of `asr.audio`, and the errors that bad ones give."""

import io
import re
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import soundfile

from asr.audio.containers import AudioSource
from asr.audio.waveform import load_audio
from asr.errors import AudioError

PCM_FORMATS = [
    ("WAV", "PCM_U8", 1 / 128),
    ("WAV", "PCM_16", 1 / 32768),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "PCM_32", 1e-7),
    ("WAV", "FLOAT", 1e-7),
    ("WAV", "DOUBLE", 1e-7),
    ("WAVEX", "PCM_16", 1 / 32768),
    ("RF64", "PCM_16", 1 / 32768),
    ("W64", "PCM_16", 1 / 32768),
    ("AIFF", "PCM_16", 1 / 32768),
    ("AU", "PCM_16", 1 / 32768),
    ("CAF", "PCM_16", 1 / 32768),
    ("NIST", "PCM_16", 1 / 32768),
    ("FLAC", "PCM_24", 1e-6),
]


LOSSY_FORMATS = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


@pytest.fixture(autouse=True)
def no_output(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail if the module or a C library below it prints."""
    yield
    assert capfd.readouterr() == ("", "")


def sine(seconds: float, sample_rate: int = 16_000, hertz: float = 440) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return 0.3 * np.sin(2 * np.pi * hertz * time)  # (N,)


def speechlike(seconds: float, sample_rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """A tone with pauses and noise, so that encoders vary their bit rate."""
    wave = sine(seconds, sample_rate)
    wave *= np.arange(len(wave)) / sample_rate % 0.5 < 0.3
    noise = np.random.default_rng(0).standard_normal((len(wave), channels))
    return wave[:, None] + 0.01 * noise  # (N, channels)


def encode(
    wave: np.ndarray, sample_rate: int = 16_000, format: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, sample_rate, format=format, subtype=subtype)
    return file.getvalue()


def encode_media(
    format: str,
    codec: str,
    sample_rate: int,
    pauses: Sequence[tuple[float, float]] = (),
    **metadata: str,
) -> bytes:
    """Two seconds of stereo in a container, encoded by PyAV.

    Each of `pauses` is (time in the sound, duration) of a pause in the container's timeline.
    """
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=sample_rate)
        stream.layout = "stereo"
        context = stream.codec_context
        wave = np.tile(sine(2, sample_rate).astype(np.float32), (2, 1))
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = sample_rate, 0
        cutter = av.AudioResampler(
            context.format.name, "stereo", sample_rate, context.frame_size or 1024
        )
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            for packet in stream.encode(piece):
                time = float((packet.pts or 0) * packet.time_base)
                shift = sum(pause for at, pause in pauses if time >= at - 0.02)
                packet.pts += round(shift / packet.time_base)
                packet.dts = packet.pts
                container.mux(packet)
    return file.getvalue()


def with_checksum(page: bytes) -> bytes:
    """An Ogg page with its checksum in place."""
    value = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", value) + page[26:]


def error_of(source: AudioSource, **options: float) -> str:
    """The error message for a source: a single sentence."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert not re.search(r"\. [A-Z]", sentence)
    return sentence
