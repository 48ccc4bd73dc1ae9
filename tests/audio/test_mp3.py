"""MP3: exact lengths, tags, and agreement with FFmpeg."""

import struct
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import encode, error_of, no_output, speechlike  # noqa: F401

from asr.audio import mp3
from asr.audio.waveform import Condition, inspect_audio, load_audio, read_blocks

MP3_RATES = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", MP3_RATES)
def test_length_is_exact_with_a_xing_header_and_complete_without(
    sample_rate: int, channels: int
) -> None:
    content = encode(speechlike(2, sample_rate, channels), sample_rate, "MP3")
    info = inspect_audio(content)
    assert (info.frames, info.sample_rate, info.channels) == (
        2 * sample_rate,
        sample_rate,
        channels,
    )
    whole = load_audio(content)
    assert len(whole) == 32_000

    tag = mp3.read_xing(content)
    bare = load_audio(content[tag.frame_bytes :])  # the bit rate varies: no length can be estimated
    begin = round(tag.skip * 16_000 / sample_rate)
    assert len(bare) - begin - len(whole) in range(2 * 1152 * 16_000 // sample_rate)
    if sample_rate == 16_000:
        np.testing.assert_array_equal(bare[begin : begin + len(whole)], whole)

    # Resampling at the seam sees both parts.
    np.testing.assert_allclose(load_audio(content + content), np.tile(whole, 2), atol=0.1)
    assert inspect_audio(content + content).frames == 4 * sample_rate
    assert "cut short" in error_of(content[: int(0.9 * len(content))])


def test_tags_are_skipped() -> None:
    content = encode(speechlike(0.5), format="MP3")
    id3v2 = b"ID3\4\0\0\0\0\1\x48" + b"TIT2" + bytes(196)  # a size of 200 in bytes of 7 bits
    expected = load_audio(content)
    for tagged in (
        id3v2 + content,
        id3v2 + id3v2 + bytes(50) + content,
        content + b"TAG" + bytes(125),
    ):
        np.testing.assert_array_equal(load_audio(tagged), expected)
    tag = mp3.read_xing(content)
    protected = bytearray(content[: tag.frame_bytes])
    protected[1] &= 0xFE  # a checksum follows the header
    protected[6:] = content[4 : tag.frame_bytes - 2]
    assert mp3.read_xing(bytes(protected)) == tag


@pytest.mark.parametrize("format", ["MP3", "FLAC", "WAV"])
def test_a_long_chain_of_tags_takes_linear_time(format: str) -> None:
    content = encode(speechlike(0.5), format=format)
    chain = 200_000 * (b"ID3\4\0\0\0\0\0\2" + bytes(2))
    begun = process_time()
    np.testing.assert_array_equal(load_audio(chain + content), load_audio(content))
    if format == "MP3":
        np.testing.assert_array_equal(load_audio(content + chain), load_audio(content))
    assert process_time() - begun < 5


@pytest.mark.parametrize("junk", [bytes(5_000), b"junk of a recorder\xff\xe0\xff\xfb" * 300])
def test_bytes_before_the_first_frame_are_told(junk: bytes) -> None:
    content = encode(speechlike(0.5), format="MP3")
    conditions: list[Condition] = []
    blocks = read_blocks(junk + content, on_end=conditions.append)
    np.testing.assert_array_equal(np.concatenate(list(blocks)), load_audio(content))
    [warning] = conditions[0].warnings
    assert f"begins with {len(junk):,} bytes that are no sound" in warning


def test_a_vbri_header_is_no_sound_and_states_the_length() -> None:
    content = encode(speechlike(2, 44_100), 44_100, "MP3")
    frames = content[mp3.read_xing(content).frame_bytes :]
    at, sizes = 0, []
    while at < len(frames):
        sizes.append(mp3.measure_frame(frames[at : at + 4])[0])
        at += sizes[-1]
    head = b"\xff\xfb\x90" + content[3:4]  # 128 kbit/s
    fields = struct.pack(">HHHIIHHHH", 1, 0, 75, len(frames), len(sizes), 0, 1, 2, 1)
    header = (head + bytes(32) + b"VBRI" + fields).ljust(mp3.measure_frame(head)[0], b"\0")
    assert inspect_audio(header + frames).frames == 1152 * len(sizes)
    np.testing.assert_array_equal(load_audio(header + frames), load_audio(frames))
    assert len(load_audio(2 * (header + frames))) == pytest.approx(
        2 * len(load_audio(frames)), abs=2
    )
    assert "cut short" in error_of((header + frames)[: -len(frames) // 3])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([b"Xing", b"Info"]), st.integers(0, 255))
def test_parser_accepts_any_bytes_in_a_xing_header(content: bytes, name: bytes, bits: int) -> None:
    header = b"\xff\xfb" + bytes([bits, bits])
    if mp3.is_mp3(header):
        for at in (9, 17, 32):
            tag = mp3.read_xing(header + bytes(at) + name + content)
            assert tag.frame_bytes >= 0
            assert tag.skip >= 0
            assert tag.drop >= 0
            assert tag.samples is None or tag.samples >= 0


def test_samples_agree_with_ffmpeg(shared: Path) -> None:
    av = pytest.importorskip("av")
    folders = ("LibriSpeech/dev-mini", "speechocean762/dev")
    for folder in folders:
        path = next((shared / folder).rglob("*.mp3"))
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        oracle = np.concatenate(frames)
        waveform = load_audio(path)
        shift = len(oracle) - len(waveform)  # FFmpeg keeps the padding at the end
        assert 0 <= shift < 1152
        np.testing.assert_allclose(waveform, oracle[: len(waveform)], atol=1e-3)


def test_real_recordings_cut_short_raise_an_error(shared: Path) -> None:
    for folder in ("LibriSpeech/dev-mini", "speechocean762/dev"):
        for path in sorted((shared / folder).rglob("*.mp3"))[:10]:
            content = path.read_bytes()
            lost = int(0.15 * len(content) / inspect_audio(path).seconds)  # 150 ms in bytes
            assert "cut short" in error_of(content[:-lost])
            load_audio(path)


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["noise", "zeros", "text"])
def test_damage_within_a_long_mp3_costs_only_its_own_place(
    kind: str, channels: int, has_header: bool
) -> None:
    content = encode(speechlike(30, 16_000, channels), format="MP3")
    if not has_header:
        content = content[mp3.read_xing(content).frame_bytes :]
    whole = load_audio(content)
    at, size = len(content) // 2, 4_000
    damage = {
        "noise": np.random.default_rng(0).bytes(size),
        "zeros": bytes(size),
        "text": b"a page of text " * (size // 15),
    }[kind]
    broken = content[:at] + damage + content[at + size :]
    assert "is damaged from" in error_of(broken)
    conditions: list[Condition] = []
    blocks = read_blocks(broken, on_end=conditions.append, keep_damaged=True)
    waveform = np.concatenate(list(blocks))
    [(start, end)] = conditions[0].gaps
    assert 14 < start < end < 17
    assert abs(len(waveform) - len(whole)) < 8_000 * 0.06 if has_header else 16_000
    begin, rest = round((start - 0.2) * 16_000), round((30 - end - 0.3) * 16_000)
    np.testing.assert_allclose(waveform[:begin], whole[:begin], atol=1e-4)
    np.testing.assert_allclose(waveform[-rest:], whole[-rest:], atol=1e-4)


def test_a_cut_after_the_first_frames_has_no_samples() -> None:
    """The decoder then gives nothing but its delay, which is no reason to warn of empty blocks."""
    content = encode(speechlike(0.5, 44_100, channels=2), 44_100, "MP3")
    for size in (200, 800, 1400):
        assert "contains no samples" in error_of(content[:size])
