"""Containers of sound and video: complete, at their presentation times, and failing by themselves."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from odd_recordings import media
from sounds import encode, encode_media, error_of, no_output, sine  # noqa: F401

from asr.audio.waveform import (
    Condition,
    count_other_files,
    find_audio,
    inspect_audio,
    load_audio,
    read_blocks,
)
from asr.errors import AudioError


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


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("webm", "libopus")])
def test_titles_in_another_encoding_do_not_matter(format: str, codec: str) -> None:
    content = encode_media(format, codec, 48_000, title="caféé")
    changed = content.replace("éé".encode(), b"\xe9\xff\xe9\xc3")
    assert changed != content
    np.testing.assert_array_equal(load_audio(changed), load_audio(content))


def test_an_unknown_codec_is_an_error_of_the_recording() -> None:
    content = encode_media("matroska", "libopus", 48_000).replace(b"A_OPUS", b"A_QPUS")
    assert "in a format that FFmpeg cannot decode" in error_of(content)


@pytest.mark.parametrize("failure", [AttributeError, ValueError, UnicodeDecodeError, MemoryError])
def test_any_exception_of_the_decoder_is_an_error_of_the_recording(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av")
    content = encode_media("webm", "libopus", 48_000)

    def fail(*_: object, **__: object) -> None:
        raise failure(
            *(("utf-8", b"\xe9", 0, 1, "bad") if failure is UnicodeDecodeError else ("x",))
        )

    for name in ("AudioResampler", "open"):
        monkeypatch.setattr(av, name, fail)
        assert "damaged" in error_of(content)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("webm", "libopus")])
@pytest.mark.parametrize("seed", range(15))
def test_damaged_bytes_raise_at_most_an_audio_error(format: str, codec: str, seed: int) -> None:
    content = bytearray(encode_media(format, codec, 48_000))
    random = np.random.default_rng(seed)
    reach = 400 if seed % 2 else len(content)
    for position in random.integers(0, reach, 20):
        content[position] = random.integers(256)
    try:
        load_audio(bytes(content))
        inspect_audio(bytes(content))
    except AudioError:
        pass


@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("pause", [0.2, 3.0])
@pytest.mark.parametrize(
    ("format", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le")]
)
def test_pauses_in_the_timeline_are_silent_and_later_sound_keeps_its_time(
    format: str, codec: str, pause: float, at: float
) -> None:
    plain = load_audio(encode_media(format, codec, 48_000))
    waveform = load_audio(encode_media(format, codec, 48_000, [(at, pause)]))
    loud = np.flatnonzero(np.abs(waveform) > 0.1) / 16_000
    if at == 0:
        assert loud[0] == pytest.approx(pause, abs=0.05)
    else:
        last = np.diff(loud).argmax()
        assert (loud[last], loud[last + 1]) == pytest.approx((at, at + pause), abs=0.06)
    assert len(waveform) == pytest.approx(len(plain) + pause * 16_000, abs=800)


def test_joined_mp4_files_are_refused() -> None:
    content = encode_media("mp4", "aac", 48_000)
    assert "joins several recordings" in error_of(content + content)


@pytest.mark.parametrize(
    ("format", "codec", "extension"),
    [
        ("adts", "aac", ".aac"), ("ac3", "ac3", ".ac3"), ("avi", "mp2", ".avi"),
        ("mpegts", "aac", ".ts"), ("mpegts", "mp2", ".m2ts"), ("vob", "mp2", ".mpg"),
        ("wv", "wavpack", ".wv"), ("tta", "tta", ".tta"), ("matroska", "aac", ".mkv"),
    ],
)  # fmt: skip
def test_folders_list_what_ffmpeg_reads(
    tmp_path: Path, format: str, codec: str, extension: str
) -> None:
    path = tmp_path / f"a{extension}"
    path.write_bytes(encode_media(format, codec, 48_000))
    assert find_audio(tmp_path) == [path]
    assert not count_other_files(tmp_path)
    assert len(load_audio(path)) == pytest.approx(32_000, abs=800)


def test_a_broadcast_whose_clock_jumps_goes_on() -> None:
    plain = encode_media("mpegts", "mp2", 48_000)
    forward = encode_media("mpegts", "mp2", 48_000, [(1.0, 4_000.0)])
    back = forward + plain  # joined files
    for content, seconds in ((plain, 2), (forward, 2), (back, 4)):
        waveform = load_audio(content)
        assert len(waveform) / 16_000 == pytest.approx(seconds, abs=0.1)
        loud = np.abs(waveform).reshape(-1)[1_000:-2_000]
        assert np.mean(loud > 0.05) > 0.8


def test_lost_packets_of_a_broadcast_are_a_gap() -> None:
    plain = encode_media("mpegts", "mp2", 48_000)
    recorded = b"".join(bytes(4) + plain[at : at + 188] for at in range(0, len(plain), 188))
    for content in (plain, recorded):
        middle = len(content) // 2
        broken = content[:middle] + bytes(8_000) + content[middle + 8_000 :]
        assert "is damaged" in error_of(broken)
        conditions: list[Condition] = []
        blocks = read_blocks(broken, on_end=conditions.append, keep_damaged=True)
        waveform = np.concatenate(list(blocks))
        assert len(waveform) == pytest.approx(len(load_audio(content)), abs=800)
        assert 0.1 < sum(end - start for start, end in conditions[0].gaps) < 0.5
    with_pause = encode_media("mpegts", "mp2", 48_000, [(1.0, 1.0)])
    assert len(load_audio(with_pause)) == pytest.approx(48_000, abs=1_600)


def test_a_wma_that_is_cut_is_refused() -> None:
    content = media("asf", "wmav2", 44_100, bit_rate=128_000).content
    assert len(load_audio(content)) > 4 * 16_000
    assert "is cut short (its header declares" in error_of(content[: len(content) // 2])


def test_without_the_extra_the_encodings_of_libsndfile_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adpcm, ac3 = encode(sine(1), subtype="IMA_ADPCM"), encode_media("wav", "ac3", 48_000)
    assert len(load_audio(ac3)) > 31_000
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(load_audio(adpcm)) > 15_900
    assert "cannot be decoded" in error_of(ac3)
