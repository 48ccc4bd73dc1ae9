"""Whatever is a recording gives its samples; whatever is not is refused with one sentence."""

import contextlib
import io
import os
import re
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from asr.audio import containers, mp3, waveform
from asr.audio.containers import AudioSource
from asr.audio.waveform import (
    Resampler,
    change_speed,
    find_audio,
    inspect_audio,
    load_audio,
    load_channels,
    read_blocks,
)
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
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither the module nor the C libraries under it may print."""
    yield
    assert capfd.readouterr() == ("", "")


def sine(seconds: float, sample_rate: int = 16_000, hertz: float = 440) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return 0.3 * np.sin(2 * np.pi * hertz * time)  # (N,)


def speechlike(seconds: float, sample_rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """Bursts and pauses, so that encoders vary their bit rate."""
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


def refusal(source: AudioSource, **options: float) -> str:
    """The one sentence with which a source is refused."""
    with pytest.raises(AudioError) as caught:
        load_audio(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert not re.search(r"\. [A-Z]", sentence)
    return sentence


# ---- What can be read ---------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "subtype", "step"), PCM_FORMATS)
def test_uncompressed_formats_give_their_samples(format: str, subtype: str, step: float) -> None:
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


@pytest.mark.parametrize("sample_rate", [1_000, 8_000, 11_025, 44_100, 48_000, 192_000])
def test_any_sample_rate(sample_rate: int) -> None:
    waveform = load_audio(encode(sine(1, sample_rate, 300), sample_rate, subtype="FLOAT"))
    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[1000:-1000], sine(1, hertz=300)[1000:-1000], atol=1e-3)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_are_averaged(channels: int) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, (70_000, channels))
    waveform = load_audio(encode(wave, subtype="DOUBLE"))
    np.testing.assert_allclose(waveform, wave.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 8_000), (9.0, 70_000), (100.0, 70_000)])
def test_channels_can_be_had_as_they_are(seconds: float, frames: int) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, (70_000, 2))
    channels = load_channels(encode(wave, 8_000, subtype="DOUBLE"), seconds)
    np.testing.assert_allclose(channels, wave[:frames], atol=1e-6)
    with pytest.raises(AudioError, match="cut short"):
        load_channels(encode(wave, 8_000)[:-9_000], 100.0)


def test_clipping_silence_and_ten_milliseconds() -> None:
    loud = 20 * sine(0.1)
    np.testing.assert_allclose(load_audio(encode(loud, subtype="FLOAT")), loud, rtol=1e-6)
    assert not load_audio(encode(np.zeros(16_000))).any()
    assert len(load_audio(encode(sine(0.01)))) == 160
    assert len(load_audio(encode(sine(0.01, 48_000), 48_000, "MP3"))) == 160


def test_every_kind_of_source(tmp_path: Path) -> None:
    content = encode(sine(0.2))
    expected = load_audio(content)
    path = tmp_path / "ünï 日本 'x'.wav"
    path.write_bytes(content)
    misnamed = tmp_path / "recording.raw"  # which soundfile takes for headerless
    misnamed.write_bytes(content)
    with path.open("rb") as file:
        for source in (path, str(path), misnamed, file, io.BytesIO(content), bytearray(content)):
            np.testing.assert_array_equal(load_audio(source), expected)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_pipes(format: str, tmp_path: Path) -> None:
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
    """A WAV file written by hand, with the sizes that its header claims."""
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
def test_wav_of_unknown_size_is_read_to_its_end(
    extra: bytes, riff_size: int, data_size: int
) -> None:
    wave = sine(0.1)
    samples = (wave * 32767).astype("<i2").tobytes()
    np.testing.assert_allclose(
        load_audio(wav(samples, riff_size, data_size, extra)), wave, atol=1e-4
    )


def test_chunks_before_and_after_the_samples() -> None:
    samples = (sine(0.1) * 32767).astype("<i2").tobytes()
    plain = load_audio(wav(samples))
    for content in (wav(samples, extra=EVEN_CHUNK + ODD_CHUNK), wav(samples) + EVEN_CHUNK):
        np.testing.assert_array_equal(load_audio(content), plain)
    assert "holds no samples" in refusal(wav(b"", 36 + len(EVEN_CHUNK)) + EVEN_CHUNK)
    assert "cut short" in refusal(wav(samples, extra=ODD_CHUNK)[:-2])


# ---- Blocks ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    format=st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]),
    source_rate=st.sampled_from([8_000, 16_000, 44_100]),
    target_rate=st.sampled_from([8_000, 16_000]),
    channels=st.integers(1, 2),
    samples=st.integers(100, 200_000),
)
def test_load_is_the_concatenation_of_blocks(
    format: str, source_rate: int, target_rate: int, channels: int, samples: int
) -> None:
    content = encode(speechlike(samples / source_rate, source_rate, channels), source_rate, format)
    blocks = list(read_blocks(content, target_rate))
    waveform = load_audio(content, target_rate)
    np.testing.assert_array_equal(np.concatenate(blocks), waveform)
    assert all(block.ndim == 1 and len(block) and block.dtype == np.float32 for block in blocks)
    assert abs(len(waveform) - samples * target_rate / source_rate) <= 0.5
    seconds = inspect_audio(content).seconds
    assert seconds == pytest.approx(samples / source_rate)


def test_samples_do_not_depend_on_the_block_size(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next((shared / "LibriSpeech" / "dev-mini").rglob("*-0002.mp3"))
    expected = load_audio(path)
    monkeypatch.setattr(containers, "BLOCK_FRAMES", 1_000)
    np.testing.assert_array_equal(load_audio(path), expected)


def test_blocks_are_read_lazily_and_release_their_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encode(np.zeros(1_000_000)))
    blocks = read_blocks(path)
    assert len(next(blocks)) == containers.BLOCK_FRAMES
    blocks.close()  # type: ignore[attr-defined]  # a file left open is a warning, thus an error
    with pytest.raises(AudioError):
        next(read_blocks(tmp_path / "missing.wav"))


# ---- MP3 ---------------------------------------------------------------------------------------

MP3_RATES = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", MP3_RATES)
def test_mp3_lengths_are_exact_with_a_xing_header_and_whole_without(
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
    bare = load_audio(content[tag.frame_bytes :])  # of varying bit rate: no length can be estimated
    begin = round(tag.skip * 16_000 / sample_rate)
    assert len(bare) - begin - len(whole) in range(2 * 1152 * 16_000 // sample_rate)
    if sample_rate == 16_000:
        np.testing.assert_array_equal(bare[begin : begin + len(whole)], whole)

    assert len(load_audio(content + content)) > 2 * len(whole)  # joined: nothing is lost
    assert "cut short" in refusal(content[: int(0.9 * len(content))])


def test_mp3_tags_are_skipped() -> None:
    content = encode(speechlike(0.5), format="MP3")
    id3v2 = b"ID3\4\0\0\0\0\1\x48" + b"TIT2" + bytes(196)  # sizes have 7 bits a byte: 200
    expected = load_audio(content)
    for tagged in (
        id3v2 + content,
        id3v2 + id3v2 + bytes(50) + content,
        content + b"TAG" + bytes(125),
    ):
        np.testing.assert_array_equal(load_audio(tagged), expected)
    tag = mp3.read_xing(content)
    protected = bytearray(content[: tag.frame_bytes])
    protected[1] &= 0xFE  # a checksum lies between the header and what follows
    protected[6:] = content[4 : tag.frame_bytes - 2]
    assert mp3.read_xing(bytes(protected)) == tag


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([b"Xing", b"Info"]), st.integers(0, 255))
def test_no_xing_header_breaks_the_parser(content: bytes, name: bytes, bits: int) -> None:
    header = b"\xff\xfb" + bytes([bits, bits])
    if mp3.is_mp3(header):
        for at in (9, 17, 32):
            tag = mp3.read_xing(header + bytes(at) + name + content)
            assert tag.frame_bytes >= 0
            assert tag.skip >= 0
            assert tag.drop >= 0
            assert tag.samples is None or tag.samples >= 0


def test_mp3_agrees_with_ffmpeg(shared: Path) -> None:
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


def test_no_real_recording_is_refused(shared: Path) -> None:
    for path in find_audio(shared)[::75]:
        seconds = len(load_audio(path)) / 16_000
        assert inspect_audio(path).seconds == pytest.approx(seconds, abs=1 / 16_000)
        load_audio(path, expected_seconds=seconds)


def test_real_recordings_cut_short_are_refused(shared: Path) -> None:
    for folder in ("LibriSpeech/dev-mini", "speechocean762/dev"):
        for path in sorted((shared / folder).rglob("*.mp3"))[:10]:
            content = path.read_bytes()
            lost = int(0.15 * len(content) / inspect_audio(path).seconds)  # bytes of 150 ms
            assert "cut short" in refusal(content[:-lost])
            load_audio(path)


# ---- What must be refused -----------------------------------------------------------------------


def test_sources_that_are_no_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, empty, text = (tmp_path / name for name in ("missing.wav", "empty.wav", "text.wav"))
    empty.touch()
    text.write_text("This is not a recording. It is text.\n" * 50)
    assert refusal(missing).startswith(f"{missing} does not exist")
    assert refusal(tmp_path).startswith(f"{tmp_path} is a folder")
    assert refusal(empty).startswith(f"{empty} is empty")
    assert refusal(text).startswith(f"{text} is not audio")
    assert "empty" in refusal(b"")
    assert "not audio" in refusal(bytes(1000))
    assert "not audio" in refusal(b"%PDF-1.7" + bytes(range(256)))
    assert "cannot be opened" in refusal("a\0b.wav")
    for source in (None, 3, [1.0], io.StringIO("text")):
        assert "no source of audio" in refusal(source)  # type: ignore[arg-type]
    closed = io.BytesIO(encode(sine(0.1)))
    closed.close()
    assert "closed" in refusal(closed)

    def forbid(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(containers.io, "FileIO", forbid)
    assert refusal(text).startswith(f"{text} cannot be opened (Permission denied)")


def test_samples_are_a_recording_too() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)
    waveform = load_audio(samples)
    assert np.array_equal(waveform, samples)
    assert not np.shares_memory(waveform, samples)
    whole = np.array([-32_768, 0, 16_384], np.int16)
    assert load_audio(whole).tolist() == [-1.0, 0.0, 0.5]
    for wrong, sentence in (
        (np.zeros(9), "float32 or int16, not float64"),
        (np.zeros((9, 2), np.float32), "not one channel"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.full(9, np.nan, np.float32), "the first at 0.000 s"),
    ):
        assert sentence in refusal(wrong)
    with pytest.raises(AudioError, match="lasts 1"):
        load_audio(samples, expected_seconds=2.0)


@pytest.mark.parametrize("loud", [2e6, 3e38])
def test_samples_beyond_all_reason_are_refused(loud: float) -> None:
    content = encode(np.full(16_000, loud), subtype="FLOAT")
    assert "more than 1,000,000 where 1 is full scale" in refusal(content)


@pytest.mark.parametrize("format", ["WAV", "AIFF", "OGG"])
def test_no_samples(format: str) -> None:
    content = encode(np.zeros(0), format=format)
    assert "holds no samples" in refusal(content)
    with pytest.raises(AudioError, match="holds no samples"):
        inspect_audio(content)


def test_less_than_one_sample_after_resampling() -> None:
    assert "holds no samples" in refusal(encode(np.ones(1), 48_000))
    assert len(load_audio(encode(np.ones(2), 48_000))) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_samples_that_are_not_finite(value: float, sample_rate: int) -> None:
    wave = np.zeros((100_000, 2))
    wave[80_000, 1] = value
    seconds = 80_000 / sample_rate
    assert f"the first at {seconds:.3f} s" in refusal(encode(wave, sample_rate, subtype="DOUBLE"))
    wave[80_000] = np.inf, -np.inf
    assert f"the first at {seconds:.3f} s" in refusal(encode(wave, sample_rate, subtype="DOUBLE"))


def test_impossible_sample_rates() -> None:
    assert "999 samples per second" in refusal(encode(sine(1), 999))
    assert "2,000,000 samples per second" in refusal(encode(sine(1), 2_000_000))


@settings(deadline=None, max_examples=60)
@given(position=st.floats(0.01, 0.99), bit=st.integers(0, 7))
def test_corrupt_flac(position: float, bit: int) -> None:
    content = bytearray(encode(speechlike(1), format="FLAC"))
    frames = content.index(b"\xff\xf8")  # after the metadata, which holds no sound
    content[frames + int(position * (len(content) - frames))] ^= 1 << bit
    assert "damaged" in refusal(bytes(content))


@settings(deadline=None, max_examples=100)
@given(
    format=st.sampled_from(["W64", "CAF", "WAV", "AIFF", "RF64", "AU"]),
    position=st.integers(8, 100),
    value=st.integers(-(2**63), 2**63 - 1),
)
@example("CAF", 12, 2**63 - 5)
@example("W64", 56, 2**63 - 5)
def test_no_damaged_size_breaks_the_parser(
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
def test_nothing_that_was_cut_short_is_transcribed(
    format: tuple[str, str], position: float
) -> None:
    """At any byte: refused, or less than 50 ms are lost."""
    content = encode(speechlike(1), format=format[0], subtype=format[1])
    cut = int(position * len(content))
    assume(content[cut : cut + 4] != b"OggS")  # whole pages are a whole Ogg file (RFC 7845)
    kept = 0
    with contextlib.suppress(AudioError):
        kept = len(load_audio(content[:cut]))
    assert kept == 0 or kept > 16_000 - 800


@pytest.mark.parametrize("open_", [bytes, io.BytesIO])
def test_a_header_that_was_cut_short_prints_nothing(open_: type) -> None:
    """libsndfile asks for a place before the file's beginning, in a callback that cannot fail."""
    content = encode(speechlike(1), format="AIFF")
    for cut in range(120):
        with contextlib.suppress(AudioError):
            load_audio(open_(content[:cut]))


def test_a_wav_that_lacks_one_byte() -> None:
    content = encode(sine(1))
    assert "promises 32,000 bytes of samples and 31,999 are there" in refusal(content[:-1])


def test_joined_ogg_files() -> None:
    content = encode(speechlike(1), format="OGG")
    pages = content.split(b"OggS")
    other = b"OggS".join(page[:10] + b"abcd" + page[14:] for page in pages[1:])  # serial number
    assert "joins several recordings" in refusal(content + b"OggS" + other)


def test_expected_duration() -> None:
    content = encode(sine(1))
    for seconds in (0.951, 1, 1.049):
        assert len(load_audio(content, expected_seconds=seconds)) == 16_000
    for seconds in (0.94, 1.06):
        assert f"lasts 1.00 s where {seconds:.2f} s" in refusal(content, expected_seconds=seconds)


# ---- Inspecting and finding ---------------------------------------------------------------------


def test_inspect_states_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(encode(speechlike(1.5, 44_100, 2), 44_100, "FLAC", "PCM_24"))
    info = inspect_audio(path)
    assert info == waveform.AudioInfo(1.5, 44_100, 2, "FLAC", "PCM_24", 66_150)
    with pytest.raises(AudioError, match="does not exist"):
        inspect_audio(tmp_path / "missing")
    with pytest.raises(AudioError, match="cut short"):
        inspect_audio(encode(sine(1))[:-1000])


def test_find_audio(tmp_path: Path) -> None:
    wanted = ["a.wav", "B.FLAC", "deep/er/c.mp3", "deep/d.Opus", "e.m4a"]
    for name in [*wanted, "notes.txt", "._a.wav", "deep/list.trans.txt", "wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == sorted(tmp_path / name for name in wanted)
    for wrong in (tmp_path / "a.wav", tmp_path / "nowhere"):
        with pytest.raises(AudioError, match=f"{wrong} is not a folder"):
            find_audio(wrong)


# ---- Resampling ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    rates=st.sampled_from([(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (16_000, 16_000)]),
    cuts=st.lists(st.integers(0, 30_000), max_size=20),
)
def test_resampling_in_pieces_equals_one_call(rates: tuple[int, int], cuts: list[int]) -> None:
    wave = np.random.default_rng(2).uniform(-1, 1, 30_000).astype(np.float32)
    resampler = Resampler(*rates)
    pieces = [resampler.feed(piece) for piece in np.split(wave, sorted(cuts))]
    pieces.append(resampler.finish())
    np.testing.assert_allclose(np.concatenate(pieces), soxr.resample(wave, *rates), atol=1e-4)


def level(waveform: np.ndarray) -> float:
    """Root mean square of the settled part, in decibels of the test sine's."""
    middle = waveform[2000:-2000]
    return float(20 * np.log10(np.sqrt(np.mean(middle**2)) / (0.3 / np.sqrt(2)) + 1e-12))


@pytest.mark.parametrize("sample_rate", [44_100, 48_000, 192_000])
def test_resampling_keeps_speech_and_rejects_aliases(sample_rate: int) -> None:
    def resample(hertz: float) -> np.ndarray:
        return load_audio(encode(sine(1, sample_rate, hertz), sample_rate, subtype="FLOAT"))

    for hertz in (100, 1_000, 4_000, 7_000):
        assert abs(level(resample(hertz))) < 0.05
        np.testing.assert_allclose(
            resample(hertz)[2000:-2000], sine(1, hertz=hertz)[2000:-2000], atol=2e-3
        )
    for hertz in (8_300, 9_000, 12_000, 15_500):
        assert level(resample(hertz)) < -100


@settings(deadline=None)
@given(samples=st.integers(0, 50_000), factor=st.floats(0.5, 2))
def test_speed_changes_the_length_exactly(samples: int, factor: float) -> None:
    faster = change_speed(np.ones(samples, np.float32), factor)
    assert len(faster) == round(samples / factor)
    assert faster.dtype == np.float32


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_the_pitch(factor: float) -> None:
    faster = change_speed(sine(4, hertz=1_000).astype(np.float32), factor)
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster))))
    assert spectrum.argmax() * 16_000 / len(faster) == pytest.approx(1_000 * factor, abs=0.5)
    assert abs(level(faster)) < 0.05


@pytest.mark.parametrize("factor", [0, -1.1, float("nan"), float("inf")])
def test_impossible_speeds(factor: float) -> None:
    with pytest.raises(AudioError, match="speed factor"):
        change_speed(np.zeros(10, np.float32), factor)


# ---- mp4 and webm -------------------------------------------------------------------------------


def encode_media(format: str, codec: str, sample_rate: int) -> bytes:
    """Two seconds of stereo in a container, by PyAV."""
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
def test_media_containers(format: str, codec: str, sample_rate: int) -> None:
    content = encode_media(format, codec, sample_rate)
    waveform = load_audio(content)
    assert 32_000 <= len(waveform) < 32_800  # AAC may be padded
    np.testing.assert_allclose(waveform[4000:28_000], sine(2)[4000:28_000], atol=0.03)
    info = inspect_audio(content)
    assert (info.sample_rate, info.channels) == (sample_rate, 2)
    assert info.seconds == pytest.approx(len(waveform) / 16_000, abs=1e-3)
    for part in (0.05, 0.5, 0.8):
        assert re.search("damaged|cut short", refusal(content[: int(part * len(content))]))


def test_media_containers_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_media("mp4", "aac", 44_100)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'lstm-asr[media]'" in refusal(content)
