"""Every format is read to its last sample, and every damaged or cut file raises an error."""

import contextlib
import io
import os
import struct
import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sounds import (
    LOSSY_FORMATS,
    PCM_FORMATS,
    encode,
    encode_media,
    error_of,
    no_output,  # noqa: F401
    sine,
    speechlike,
    with_checksum,
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
    assert "cut short" in error_of(wav(samples, extra=ODD_CHUNK)[:-100])


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
@example("W64", 96, -88)
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


def test_a_wav_whose_size_is_slightly_wrong_is_read_to_its_end() -> None:
    samples = (sine(0.1) * 32767).astype("<i2").tobytes()
    plain = load_audio(wav(samples))
    for wrong in (-44, -8, -2, 2, 8, 44):  # some programs count headers, or leave one out
        content = wav(samples, data_size=len(samples) + wrong)
        np.testing.assert_array_equal(load_audio(content), plain[: len(plain) + min(wrong, 0) // 2])
    assert "declares 3,300 bytes of samples, but only 3,200 are present" in error_of(
        wav(samples, data_size=3_300)
    )


@pytest.mark.parametrize("begun", [1, 2, 3, 10])
def test_an_ogg_file_cut_where_a_page_begins_raises_an_error(begun: int) -> None:
    content = encode(speechlike(1), format="OGG", subtype="VORBIS")
    page = content.rindex(b"OggS")
    assert "its last page is incomplete" in error_of(content[: page + begun])


def other_serial(ogg: bytes) -> bytes:
    """The same Ogg file under another serial number."""
    pages = ogg.split(b"OggS")
    changed = [page[:10] + b"abcd" + page[14:] for page in pages[1:]]
    return b"".join(with_checksum(b"OggS" + page) for page in changed)


JOINED = [("WAV", None), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]


@pytest.mark.parametrize(("format", "subtype"), JOINED)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 1), (16_000, 2), (8_000, 2)])
def test_joined_files_are_heard_whole(
    format: str, subtype: str | None, rate: int, channels: int
) -> None:
    """As `cat a b` makes them, of the same or of different rates and channels."""
    first = encode(speechlike(0.5), format=format, subtype=subtype)
    second = encode(speechlike(0.7, rate, channels), rate, format, subtype)
    expected = np.concatenate((load_audio(first), load_audio(second)))
    for joined in (first + second, first + first + second):
        found = load_audio(joined)
        assert abs(len(found) - len(expected) - (len(joined) > len(first + second)) * 8_000) < 80
        assert inspect_audio(joined).seconds == pytest.approx(len(found) / 16_000, abs=0.01)
        np.testing.assert_allclose(found[-7_000:-1_000], expected[-7_000:-1_000], atol=0.12)


def test_chained_ogg_streams_are_heard_whole() -> None:
    content = encode(speechlike(0.5), format="OGG")
    chain = content + other_serial(content)
    np.testing.assert_array_equal(load_audio(chain), np.tile(load_audio(content), 2))


@pytest.mark.parametrize("format", ["WAV", "RF64", "AU", "FLAC"])
def test_a_header_that_states_too_few_samples_loses_none(format: str) -> None:
    content = bytearray(encode(speechlike(2), format=format))
    expected = load_audio(bytes(content))
    if format == "FLAC":
        content[21:26] = bytes([content[21] & 0xF0]) + struct.pack(">I", 9_000)
    else:
        at = {"WAV": content.find(b"data") + 4, "RF64": 28, "AU": 8}[format]
        content[at : at + 4] = struct.pack(">I" if format == "AU" else "<I", 16_000)
    np.testing.assert_array_equal(load_audio(bytes(content)), expected)
    assert inspect_audio(bytes(content)).frames == 32_000


@pytest.mark.parametrize("format", ["AIFF", "W64", "CAF"])
def test_other_headers_that_state_too_few_samples_are_refused(format: str) -> None:
    content = encode(speechlike(2), format=format)
    size = 64_000
    for order in "<", ">":
        for stated in (size, size + 8, size + 24, size + 4):
            for code in "IQ":
                packed = struct.pack(order + code, stated)
                if content.count(packed) == 1:
                    small = struct.pack(order + code, stated - 32_000)
                    changed = content.replace(packed, small)
                    assert "more than its header declares" in error_of(changed)
                    return
    raise AssertionError("found no size")


def test_a_wav_over_4_gib_whose_size_wrapped_is_read_to_its_end(tmp_path: Path) -> None:
    size, path = (1 << 32) + 6 * 192_000, tmp_path / "long.wav"
    fmt = struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 192_000, 4, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", (size + 36) & 0xFFFFFFFF) + b"WAVEfmt " + fmt)
        file.write(b"data" + struct.pack("<I", size & 0xFFFFFFFF))
        file.truncate(44 + size)  # sparse
    assert inspect_audio(path).seconds == size / 192_000


def test_a_flac_of_unknown_length_is_read_to_its_end() -> None:
    content = bytearray(encode(speechlike(2), format="FLAC"))
    expected = load_audio(bytes(content))
    content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    np.testing.assert_array_equal(load_audio(bytes(content)), expected)
    assert inspect_audio(bytes(content)).frames == 32_000


@pytest.mark.parametrize("code", range(16))
def test_bytes_that_look_like_a_flac_frame_raise_at_most_an_audio_error(code: int) -> None:
    """The codes of a frame's length, reserved ones included (RFC 9639, section 9.1.1)."""
    content = encode(speechlike(0.5), format="FLAC")
    frame = b"\xff\xf8" + bytes([code << 4 | 8, 0x08]) + bytes(12)
    with contextlib.suppress(AudioError):
        load_audio(content[:-40] + frame + content[-24:])


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 2])
def test_a_sphere_header_that_counts_wrong_loses_nothing(factor: float) -> None:
    content = encode(speechlike(2, 16_000, 2), format="NIST")
    count = f"sample_count -i {round(32_000 * factor)}".encode()
    changed = content.replace(b"sample_count -i 32000", count)
    changed = changed[: changed.index(b"end_head") + 9].ljust(1024) + content[1024:]
    if factor > 1:
        assert "is cut short" in error_of(changed)
    else:
        np.testing.assert_array_equal(load_audio(changed), load_audio(content))
        assert inspect_audio(changed).frames == 32_000


def test_a_compressed_sphere_file_is_named_so() -> None:
    content = encode(speechlike(2), format="NIST")
    header = content[:1024].replace(
        b"end_head", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head"
    )
    assert "is compressed with shorten" in error_of(header[:1024] + content[1024:30_000])


@pytest.mark.parametrize("order", ["RIFF", "RIFX"])
@pytest.mark.parametrize("length", range(1, 9))
def test_chunks_of_any_length_with_and_without_padding_are_skipped(order: str, length: int) -> None:
    endian = "BIG" if order == "RIFX" else "LITTLE"
    file = io.BytesIO()
    soundfile.write(file, speechlike(0.5), 16_000, format="WAV", endian=endian)
    content, expected = file.getvalue(), load_audio(file.getvalue())
    assert content.startswith(order.encode())
    size = struct.pack(">I" if order == "RIFX" else "<I", length)
    at = content.index(b"data")
    for body in (b"x" * length, bytes(length), b"data fmt LIST"[:length]):
        for pad in {b"", bytes(length % 2)}:
            chunk = b"note" + size + body + pad
            for changed in (content[:at] + chunk + content[at:], content + chunk + chunk):
                np.testing.assert_array_equal(load_audio(changed), expected)


def test_numbers_that_are_not_finite_in_a_joined_part_are_an_error() -> None:
    infinite = np.tile(np.float32([np.inf, -np.inf]), (16_000, 1))
    content = encode(speechlike(1)) + encode(infinite, 16_000, "WAV", "FLOAT")
    assert "not finite numbers, the first at 1.000 s" in error_of(content)
