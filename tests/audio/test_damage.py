"""Damage within FLAC and Ogg files costs only its own place, and prints nothing."""

import contextlib
import io
from functools import cache

import numpy as np
import pytest
from sounds import encode, error_of, no_output, speechlike, with_checksum  # noqa: F401

from asr.audio.waveform import Condition, inspect_audio, load_audio, read_blocks
from asr.errors import AudioError

DAMAGED = [
    ("FLAC", None, 16_000, 0.3),
    ("FLAC", "PCM_24", 48_000, 0.1),
    ("OGG", "OPUS", 16_000, 1.1),
    ("OGG", "OPUS", 48_000, 1.1),
    ("OGG", "VORBIS", 16_000, 1.1),
    ("OGG", "VORBIS", 48_000, 1.1),
]


def swelling(seconds: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    """A signal that is different everywhere."""
    wave = speechlike(seconds, sample_rate, channels)
    return wave * np.linspace(0.2, 1, len(wave))[:, None]


@cache
def swelling_file(format: str, subtype: str | None, rate: int, channels: int = 1) -> bytes:
    """Twelve seconds of it."""
    return encode(swelling(12, rate, channels), rate, format, subtype)


def read(content: bytes) -> tuple[np.ndarray, Condition]:
    conditions: list[Condition] = []
    blocks = list(read_blocks(content, on_end=conditions.append, keep_damaged=True))
    return np.concatenate(blocks), conditions[0]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [1, 3_000])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("format", "subtype", "rate", "longest"), DAMAGED)
def test_damage_is_a_gap(
    format: str,
    subtype: str | None,
    rate: int,
    longest: float,
    place: float,
    size: int,
    channels: int,
) -> None:
    content = swelling_file(format, subtype, rate, channels)
    whole = load_audio(content)
    at = round(place * len(content))
    damage = bytes(size) if size > 1 else bytes([content[at] ^ 16])
    broken = content[:at] + damage + content[at + size :]
    assert "is damaged from" in error_of(broken)
    waveform, condition = read(broken)
    [(start, end)] = condition.gaps
    assert 0 < end - start < longest * (1 + size / 1_000)
    assert len(waveform) == pytest.approx(len(whole), abs=200)
    begin, rest = round((start - 0.05) * 16_000), round((end + 0.15) * 16_000)
    together = min(len(waveform), len(whole))
    np.testing.assert_allclose(waveform[:begin], whole[:begin], atol=1e-4)
    # Opus adapts to what came before.
    atol = 0.05 if subtype == "OPUS" else 1e-3
    np.testing.assert_allclose(waveform[rest:together], whole[rest:together], atol=atol)


@pytest.mark.parametrize(("format", "subtype", "rate", "longest"), DAMAGED)
def test_several_damaged_places_are_several_gaps(
    format: str, subtype: str | None, rate: int, longest: float
) -> None:
    content = bytearray(swelling_file(format, subtype, rate))
    for place in (0.25, 0.5, 0.75):
        content[round(place * len(content))] ^= 1
    waveform, condition = read(bytes(content))
    assert len(condition.gaps) == 3
    assert len(waveform) == 12 * 16_000
    assert condition.seconds == 12


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("lost", [0, 5, -1])
def test_an_ogg_page_that_is_missing_is_a_gap(subtype: str, lost: int) -> None:
    """The first one with sound, one in the middle, and the last one."""
    content = encode(swelling(10, 48_000), 48_000, "OGG", subtype)
    pages = [b"OggS" + page for page in content.split(b"OggS")[1:]]
    header = sum(page[6:14] == bytes(8) for page in pages)
    index = header + lost if lost >= 0 else len(pages) - 1
    pages[index] = b"\x55" * len(pages[index])
    waveform, condition = read(b"".join(pages))
    [(start, end)] = condition.gaps
    assert 0.1 < end - start < 1.5
    assert len(waveform) / 16_000 == pytest.approx(10, abs=0.7 if lost == -1 else 0.01)


def test_a_damaged_header_is_refused() -> None:
    for subtype in ("OPUS", "VORBIS"):
        content = bytearray(encode(swelling(10, 48_000), 48_000, "OGG", subtype))
        content[content.index(b"OggS", 4) + 40] ^= 1
        assert "is damaged and cannot be decoded" in error_of(bytes(content))
    flac = bytearray(encode(swelling(10, 48_000), 48_000, "FLAC"))
    flac[20] ^= 0xFF  # the number of channels, and bits
    with pytest.raises(AudioError):
        read(bytes(flac))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_flac_that_is_cut_is_no_shorter_recording(is_known: bool) -> None:
    content = bytearray(encode(swelling(10, 16_000), format="FLAC"))
    if not is_known:
        content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    cut = bytes(content[: len(content) * 2 // 3])
    assert "damaged" in error_of(cut)
    if is_known:
        with pytest.raises(AudioError, match="cut short"):
            read(cut)
    else:
        waveform, condition = read(cut)
        assert 6 < len(waveform) / 16_000 < 7
        assert len(condition.gaps) == 1


@pytest.mark.parametrize("is_known", [True, False])
def test_bytes_behind_a_flac_are_no_damage(is_known: bool) -> None:
    content = bytearray(encode(swelling(3, 16_000), format="FLAC"))
    expected = load_audio(bytes(content))
    if not is_known:
        content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    np.testing.assert_array_equal(load_audio(bytes(content) + b"TAG" + bytes(125)), expected)
    if is_known:
        np.testing.assert_array_equal(load_audio(bytes(content) + bytes(300_000)), expected)


def test_a_chain_with_a_damaged_link_keeps_the_others() -> None:
    first = encode(swelling(5, 48_000), 48_000, "OGG", "VORBIS")
    second = bytearray(encode(swelling(6, 16_000), 16_000, "OGG", "OPUS"))
    second[len(second) // 2] ^= 1
    waveform, condition = read(first + bytes(second) + first)
    [(start, end)] = condition.gaps
    assert 5 < start < end < 11
    assert len(waveform) / 16_000 == pytest.approx(16, abs=0.05)


@pytest.mark.parametrize("seed", range(30))
def test_libmpg123_prints_nothing_about_damaged_frames(seed: int) -> None:
    content = bytearray(encode(speechlike(3, 48_000, 2), 48_000, "MP3"))
    random = np.random.default_rng(seed)
    for position in random.integers(0, len(content), 20):
        content[position] = random.integers(256)
    for read_it in (read, inspect_audio, lambda data: load_audio(io.BytesIO(data))):
        with contextlib.suppress(AudioError):
            read_it(bytes(content))


def test_a_wrong_checksum_alone_is_damage() -> None:
    content = encode(swelling(10, 48_000), 48_000, "OGG", "OPUS")
    pages = [b"OggS" + page for page in content.split(b"OggS")[1:]]
    assert b"".join(map(with_checksum, pages)) == content
    pages[5] = pages[5][:22] + bytes(4) + pages[5][26:]
    assert "is damaged from" in error_of(b"".join(pages))
