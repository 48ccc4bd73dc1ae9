"""Waveforms: mono samples at one rate, from every kind of source, whole and in blocks."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import encode, error_of, no_output, sine, speechlike  # noqa: F401

from asr.audio import containers, waveform
from asr.audio.waveform import (
    Resampler,
    change_speed,
    count_other_files,
    describe_other_files,
    find_audio,
    inspect_audio,
    load_audio,
    load_channels,
    read_blocks,
)
from asr.errors import AudioError


@pytest.mark.parametrize("sample_rate", [1_000, 8_000, 11_025, 44_100, 48_000, 192_000])
def test_any_sample_rate_is_resampled(sample_rate: int) -> None:
    waveform = load_audio(encode(sine(1, sample_rate, 300), sample_rate, subtype="FLOAT"))
    assert len(waveform) == 16_000
    np.testing.assert_allclose(waveform[1000:-1000], sine(1, hertz=300)[1000:-1000], atol=1e-3)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_are_averaged(channels: int) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, (70_000, channels))
    waveform = load_audio(encode(wave, subtype="DOUBLE"))
    np.testing.assert_allclose(waveform, wave.mean(axis=1), atol=1e-6)


def condition_of(wave: np.ndarray, **options: str) -> waveform.Condition:
    found: list[waveform.Condition] = []
    for _ in read_blocks(encode(wave, **options), on_end=found.append):
        pass
    [condition] = found
    return condition


@pytest.mark.parametrize("gains", [(1, -1), (-1, 1), (1, -0.99), (0.5, 0.5, -1)])
def test_channels_that_cancel_each_other_are_heard(gains: tuple[float, ...]) -> None:
    wave = sine(5)[:, None] * np.array(gains)
    heard = load_audio(encode(wave, subtype="FLOAT"))
    loudest = wave[:, np.abs(gains).argmax()]
    np.testing.assert_allclose(heard, loudest, atol=1e-5)
    [warning] = condition_of(wave, subtype="FLOAT").warnings
    assert "silent in mono" in warning


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0, "is silent"), (1e-3, "is very quiet (-"), (1, None), (3, None), (10, "is clipped (")],
)
def test_a_level_that_is_hard_to_recognize_is_told(gain: float, words: str | None) -> None:
    for wave in (gain * sine(2), np.tile(gain * sine(2)[:, None], 2)):
        warnings = condition_of(np.clip(wave, -1, 1)).warnings
        assert len(warnings) == (words is not None)
        assert all(words in warning for warning in warnings if words)


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 8_000), (9.0, 70_000), (100.0, 70_000)])
def test_load_channels_keeps_channels_and_sample_rate(seconds: float, frames: int) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, (70_000, 2))
    channels = load_channels(encode(wave, 8_000, subtype="DOUBLE"), seconds)
    np.testing.assert_allclose(channels, wave[:frames], atol=1e-6)
    with pytest.raises(AudioError, match="cut short"):
        load_channels(encode(wave, 8_000)[:-9_000], 100.0)


def test_loud_silent_and_very_short_recordings_are_loaded() -> None:
    loud = 20 * sine(0.1)
    np.testing.assert_allclose(load_audio(encode(loud, subtype="FLOAT")), loud, rtol=1e-6)
    assert not load_audio(encode(np.zeros(16_000))).any()
    assert len(load_audio(encode(sine(0.01)))) == 160
    assert len(load_audio(encode(sine(0.01, 48_000), 48_000, "MP3"))) == 160


def test_every_kind_of_source_gives_the_same_samples(tmp_path: Path) -> None:
    content = encode(sine(0.2))
    expected = load_audio(content)
    path = tmp_path / "ünï 日本 'x'.wav"
    path.write_bytes(content)
    misnamed = tmp_path / "recording.raw"  # soundfile would read it as headerless
    misnamed.write_bytes(content)
    with path.open("rb") as file:
        for source in (path, str(path), misnamed, file, io.BytesIO(content), bytearray(content)):
            np.testing.assert_array_equal(load_audio(source), expected)


@settings(deadline=None, max_examples=40)
@given(
    format=st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]),
    source_rate=st.sampled_from([8_000, 16_000, 44_100]),
    target_rate=st.sampled_from([8_000, 16_000]),
    channels=st.integers(1, 2),
    samples=st.integers(100, 200_000),
)
def test_load_audio_concatenates_the_blocks(
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


def test_blocks_are_read_lazily_and_close_their_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encode(np.zeros(1_000_000)))
    blocks = read_blocks(path)
    assert len(next(blocks)) == containers.BLOCK_FRAMES
    blocks.close()  # type: ignore[attr-defined]  # an open file would warn, which fails the test
    with pytest.raises(AudioError):
        next(read_blocks(tmp_path / "missing.wav"))


def test_real_recordings_are_loaded_with_their_exact_length(shared: Path) -> None:
    for path in find_audio(shared)[::75]:
        seconds = len(load_audio(path)) / 16_000
        assert inspect_audio(path).seconds == pytest.approx(seconds, abs=1 / 16_000)
        load_audio(path, expected_seconds=seconds)


def test_an_array_of_samples_is_a_source() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)
    waveform = load_audio(samples)
    assert np.array_equal(waveform, samples)
    assert not np.shares_memory(waveform, samples)
    whole = np.array([-32_768, 0, 16_384], np.int16)
    assert load_audio(whole).tolist() == [-1.0, 0.0, 0.5]
    for wrong, sentence in (
        (np.zeros(9), "float32 or int16, not float64"),
        (np.zeros((9, 2), np.float32), "not one channel"),
        (np.zeros(0, np.float32), "contains no samples"),
        (np.full(9, np.nan, np.float32), "the first at 0.000 s"),
    ):
        assert sentence in error_of(wrong)
    with pytest.raises(AudioError, match="lasts 1"):
        load_audio(samples, expected_seconds=2.0)


@pytest.mark.parametrize("loud", [2e6, 3e38])
def test_absurdly_large_samples_raise_an_error(loud: float) -> None:
    content = encode(np.full(16_000, loud), subtype="FLOAT")
    assert "above 1,000,000, although full scale is 1" in error_of(content)


def test_less_than_one_sample_after_resampling_raises_an_error() -> None:
    assert "contains no samples" in error_of(encode(np.ones(1), 48_000))
    assert len(load_audio(encode(np.ones(2), 48_000))) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_samples_that_are_not_finite_raise_an_error(value: float, sample_rate: int) -> None:
    wave = np.zeros((100_000, 2))
    wave[80_000, 1] = value
    seconds = 80_000 / sample_rate
    assert f"the first at {seconds:.3f} s" in error_of(encode(wave, sample_rate, subtype="DOUBLE"))
    wave[80_000] = np.inf, -np.inf
    assert f"the first at {seconds:.3f} s" in error_of(encode(wave, sample_rate, subtype="DOUBLE"))


def test_a_duration_other_than_expected_raises_an_error() -> None:
    content = encode(sine(1))
    for seconds in (0.951, 1, 1.049):
        assert len(load_audio(content, expected_seconds=seconds)) == 16_000
    for seconds in (0.94, 1.06):
        assert f"lasts 1.00 s, but {seconds:.2f} s" in error_of(content, expected_seconds=seconds)


def test_inspect_audio_describes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(encode(speechlike(1.5, 44_100, 2), 44_100, "FLAC", "PCM_24"))
    info = inspect_audio(path)
    assert info == waveform.AudioInfo(1.5, 44_100, 2, "FLAC", "PCM_24", 66_150)
    with pytest.raises(AudioError, match="does not exist"):
        inspect_audio(tmp_path / "missing")
    with pytest.raises(AudioError, match="cut short"):
        inspect_audio(encode(sine(1))[:-1000])


def test_find_audio_lists_recordings_by_extension(tmp_path: Path) -> None:
    wanted = ["a.wav", "B.FLAC", "deep/er/c.mp3", "deep/d.Opus", "e.m4a"]
    for name in [*wanted, "notes.txt", "._a.wav", "deep/list.trans.txt", "wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == sorted(tmp_path / name for name in wanted)
    for wrong in (tmp_path / "a.wav", tmp_path / "nowhere"):
        with pytest.raises(AudioError, match=f"{wrong} is not a folder"):
            find_audio(wrong)


@pytest.mark.parametrize(
    ("extension", "form", "codec"),
    [
        (".weba", "webm", "libopus"),
        (".3gp", "3gp", "aac"),
        (".3g2", "3g2", "aac"),
        (".mp2", "mp2", "mp2"),
        (".mov", "mov", "aac"),
        (".f4v", "f4v", "aac"),
        (".mka", "matroska", "libopus"),
        (".m4v", "ipod", "aac"),
    ],
)
def test_folders_list_what_the_decoders_read(
    tmp_path: Path, extension: str, form: str, codec: str
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / f"a{extension.upper()}"
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream(codec, rate=48_000)
        stream.layout = "mono"
        samples = (10_000 * sine(1, 48_000)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48_000
        for each in (*stream.encode(frame), *stream.encode(None)):
            file.mux(each)
    assert find_audio(tmp_path) == [path]
    assert len(load_audio(path)) == pytest.approx(16_000, abs=2_000)


@pytest.mark.parametrize(
    ("extension", "form"),
    [
        (".voc", "VOC"), (".avr", "AVR"), (".pvf", "PVF"), (".paf", "PAF"), (".sf", "IRCAM"),
        (".svx", "SVX"), (".caf", "CAF"), (".aifc", "AIFF"), (".bwf", "WAV"),
    ],
)  # fmt: skip
def test_folders_list_what_libsndfile_reads(tmp_path: Path, extension: str, form: str) -> None:
    path = tmp_path / f"a{extension}"
    soundfile.write(path, sine(1), 16_000, "PCM_16", format=form)
    assert find_audio(tmp_path) == [path]
    assert len(load_audio(path)) == 16_000


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path) -> None:
    for name in ("a.wav", "b.PDF", "deep/c.pdf", "d", "notes.txt", ".hidden.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    counts = count_other_files(tmp_path)
    assert counts == {".pdf": 2, "no extension": 1}
    said = describe_other_files("music", counts)
    assert said.startswith(
        "3 files in music have other formats and are left out: .pdf (2), no extension (1); convert"
    )


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
    """Root mean square of the middle part, in decibels relative to the test sine."""
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
def test_impossible_speed_factors_raise_an_error(factor: float) -> None:
    with pytest.raises(AudioError, match="speed factor"):
        change_speed(np.zeros(10, np.float32), factor)
