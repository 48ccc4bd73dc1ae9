"""Every format is read to its last sample, and every damaged or cut file raises an error."""

import contextlib
import io
import os
import re
import struct
import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sounds import (
    LOSSY_FORMATS,
    PCM_FORMATS,
    encode,
    error_of,
    no_output,  # noqa: F401
    sine,
    speechlike,
)

from asr.audio import containers
from asr.audio.waveform import inspect_audio, load_audio
from asr.errors import AudioError


@pytest.mark.parametrize(("format", "subtype", "step"), PCM_FORMATS)
def test_uncompressed_formats_keep_their_samples(format: str, subtype: str, step: float) -> None:
    wave = sine(0.5)
    waveform = load_audio(encode(wave, format=format, subtype=subtype))
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, wave, atol=step)


@pytest.mark.parametrize(("format", "subtype"), LOSSY_FORMATS)
@pytest.mark.parametrize("sample_rate", [16_000, 48_000])
def test_lossy_formats_keep_length_and_alignment(
    format: str, subtype: str, sample_rate: int
) -> None:
    wave = sine(1, sample_rate)
    waveform = load_audio(encode(wave, sample_rate, format, subtype))
    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[2000:-2000], sine(1)[2000:-2000], atol=0.02)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_pipes_give_the_samples_of_the_file(format: str, tmp_path: Path) -> None:
    content = encode(sine(3), format=format)
    expected = load_audio(content)
    reading, writing = os.pipe()

    def write(target: int | Path) -> None:
        with open(target, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=write, args=(writing,))
    thread.start()
    with open(reading, "rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)
    thread.join()

    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=write, args=(tmp_path / "pipe",))
    thread.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe"), expected)
    thread.join()


def wav(
    samples: bytes, riff_size: int | None = None, data_size: int | None = None, extra: bytes = b""
) -> bytes:
    """A WAV file with any sizes in its header."""
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + extra
    riff_size = 12 + len(chunks) + len(samples) if riff_size is None else riff_size
    data_size = len(samples) if data_size is None else data_size
    header = b"RIFF" + struct.pack("<I", riff_size) + b"WAVE"
    return header + chunks + b"data" + struct.pack("<I", data_size) + samples


EVEN_CHUNK = (
    b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.76.100\0"
)


ODD_CHUNK = b"junk" + struct.pack("<I", 3) + b"abc\0"


@pytest.mark.parametrize("extra", [b"", EVEN_CHUNK, ODD_CHUNK])
@pytest.mark.parametrize("riff_size", [0, 36, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000024])
@pytest.mark.parametrize("data_size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_without_a_size_is_read_to_its_end(
    extra: bytes, riff_size: int, data_size: int
) -> None:
    wave = sine(0.1)
    samples = (wave * 32767).astype("<i2").tobytes()
    np.testing.assert_allclose(
        load_audio(wav(samples, riff_size, data_size, extra)), wave, atol=1e-4
    )


def test_chunks_before_and_after_the_samples_are_skipped() -> None:
    samples = (sine(0.1) * 32767).astype("<i2").tobytes()
    plain = load_audio(wav(samples))
    for content in (wav(samples, extra=EVEN_CHUNK + ODD_CHUNK), wav(samples) + EVEN_CHUNK):
        np.testing.assert_array_equal(load_audio(content), plain)
    assert "contains no samples" in error_of(wav(b"", 36 + len(EVEN_CHUNK)) + EVEN_CHUNK)
    assert "cut short" in error_of(wav(samples, extra=ODD_CHUNK)[:-2])


def encode_media(format: str, codec: str, sample_rate: int) -> bytes:
    """Two seconds of stereo in a container, encoded by PyAV."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
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
            container.mux(stream.encode(piece))
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "codec", "sample_rate"),
    [("mp4", "aac", 44_100), ("mp4", "alac", 16_000), ("webm", "libopus", 48_000)],
)
def test_media_containers_are_decoded_and_cut_ones_raise_an_error(
    format: str, codec: str, sample_rate: int
) -> None:
    content = encode_media(format, codec, sample_rate)
    waveform = load_audio(content)
    assert 32_000 <= len(waveform) < 32_800  # AAC may be padded
    np.testing.assert_allclose(waveform[4000:28_000], sine(2)[4000:28_000], atol=0.03)
    info = inspect_audio(content)
    assert (info.sample_rate, info.channels) == (sample_rate, 2)
    assert info.seconds == pytest.approx(len(waveform) / 16_000, abs=1e-3)
    for part in (0.05, 0.5, 0.8):
        assert re.search("damaged|cut short", error_of(content[: int(part * len(content))]))


def test_missing_media_extra_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_media("mp4", "aac", 44_100)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'lstm-asr[media]'" in error_of(content)


def test_other_sources_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, empty, text = (tmp_path / name for name in ("missing.wav", "empty.wav", "text.wav"))
    empty.touch()
    text.write_text("This is not a recording. It is text.\n" * 50)
    assert error_of(missing).startswith(f"{missing} does not exist")
    assert error_of(tmp_path).startswith(f"{tmp_path} is a folder")
    assert error_of(empty).startswith(f"{empty} is empty")
    assert error_of(text).startswith(f"{text} is not audio")
    assert "empty" in error_of(b"")
    assert "not audio" in error_of(bytes(1000))
    assert "not audio" in error_of(b"%PDF-1.7" + bytes(range(256)))
    assert "cannot be opened" in error_of("a\0b.wav")
    for source in (None, 3, [1.0], io.StringIO("text")):
        assert "not a source of audio" in error_of(source)  # type: ignore[arg-type]
    closed = io.BytesIO(encode(sine(0.1)))
    closed.close()
    assert "closed" in error_of(closed)

    def forbid(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(containers.io, "FileIO", forbid)
    assert error_of(text).startswith(f"{text} cannot be opened (Permission denied)")


@pytest.mark.parametrize("format", ["WAV", "AIFF", "OGG"])
def test_recordings_without_samples_raise_an_error(format: str) -> None:
    content = encode(np.zeros(0), format=format)
    assert "contains no samples" in error_of(content)
    with pytest.raises(AudioError, match="contains no samples"):
        inspect_audio(content)


def test_impossible_sample_rates_raise_an_error() -> None:
    assert "999 samples per second" in error_of(encode(sine(1), 999))
    assert "2,000,000 samples per second" in error_of(encode(sine(1), 2_000_000))


@settings(deadline=None, max_examples=60)
@given(position=st.floats(0.01, 0.99), bit=st.integers(0, 7))
def test_any_flipped_bit_in_a_flac_file_raises_an_error(position: float, bit: int) -> None:
    content = bytearray(encode(speechlike(1), format="FLAC"))
    frames = content.index(b"\xff\xf8")  # after the metadata, which has no sound
    content[frames + int(position * (len(content) - frames))] ^= 1 << bit
    assert "damaged" in error_of(bytes(content))


@settings(deadline=None, max_examples=100)
@given(
    format=st.sampled_from(["W64", "CAF", "WAV", "AIFF", "RF64", "AU"]),
    position=st.integers(8, 100),
    value=st.integers(-(2**63), 2**63 - 1),
)
@example("CAF", 12, 2**63 - 5)
@example("W64", 56, 2**63 - 5)
def test_damaged_sizes_raise_at_most_an_audio_error(
    tmp_path_factory: pytest.TempPathFactory, format: str, position: int, value: int
) -> None:
    content = bytearray(encode(speechlike(0.1), format=format))
    order: Literal["big", "little"] = "big" if format in ("CAF", "AIFF", "AU") else "little"
    content[position : position + 8] = value.to_bytes(8, order, signed=True)
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content)
    for source in (path, bytes(content)):
        with contextlib.suppress(AudioError):
            load_audio(source)


@settings(deadline=None, max_examples=200)
@given(
    format=st.sampled_from(
        [(format, subtype) for format, subtype, _ in PCM_FORMATS] + LOSSY_FORMATS
    ),
    position=st.floats(0, 1, exclude_max=True),
)
def test_a_file_cut_at_any_byte_raises_an_error(format: tuple[str, str], position: float) -> None:
    """Or it loses less than 50 ms."""
    content = encode(speechlike(1), format=format[0], subtype=format[1])
    cut = int(position * len(content))
    assume(content[cut : cut + 4] != b"OggS")  # complete pages are a valid Ogg file (RFC 7845)
    kept = 0
    with contextlib.suppress(AudioError):
        kept = len(load_audio(content[:cut]))
    assert kept == 0 or kept > 16_000 - 800


@pytest.mark.parametrize("open_", [bytes, io.BytesIO])
def test_an_incomplete_header_prints_nothing(open_: type) -> None:
    """libsndfile seeks to before the file's beginning, in a callback whose errors are printed."""
    content = encode(speechlike(1), format="AIFF")
    for cut in range(120):
        with contextlib.suppress(AudioError):
            load_audio(open_(content[:cut]))


def test_a_wav_without_its_last_byte_raises_an_error() -> None:
    content = encode(sine(1))
    assert "declares 32,000 bytes of samples, but only 31,999 are present" in error_of(content[:-1])


@pytest.mark.parametrize("begun", [1, 2, 3, 10])
def test_an_ogg_file_cut_where_a_page_begins_raises_an_error(begun: int) -> None:
    content = encode(speechlike(1), format="OGG", subtype="VORBIS")
    page = content.rindex(b"OggS")
    assert "its last page is incomplete" in error_of(content[: page + begun])


def test_joined_ogg_files_raise_an_error() -> None:
    content = encode(speechlike(1), format="OGG")
    pages = content.split(b"OggS")
    other = b"OggS".join(page[:10] + b"abcd" + page[14:] for page in pages[1:])  # serial number
    assert "joins several recordings" in error_of(content + b"OggS" + other)
