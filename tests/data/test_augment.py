"""Augmentation: drawn as configured, reproducible, and equal to torchaudio's."""

import math
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.augment import (
    AugmentConfig,
    Augmenter,
    Timing,
    add_noise,
    align_response,
    interpolate,
    random_generator,
    reverberate,
)
from asr.errors import AudioError, ConfigError

RATE = 16_000
Array = npt.NDArray[np.float32]


def only(**changes: Any) -> AugmentConfig:
    """A configuration in which everything except `changes` is off."""
    return AugmentConfig(**{"speeds": [1.0], "time_masks": 0, "mel_masks": 0, **changes})


def random_array(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def write(path: Path, samples: Array, rate: int = RATE) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")


@pytest.fixture
def folders(tmp_path: Path) -> AugmentConfig:
    """A configuration with noise and reverberation, both with probability 1."""
    for index in range(3):
        write(tmp_path / "noise" / f"{index}.wav", 0.1 * random_array(RATE, seed=index))
        decay = np.exp(-np.arange(4000, dtype=np.float32) / 800)
        write(tmp_path / "rooms" / f"{index}.wav", 0.1 * random_array(4000, seed=index) * decay)
    return AugmentConfig(
        gain_db=6.0,
        noise_folder=str(tmp_path / "noise"),
        noise_probability=1.0,
        reverb_folder=str(tmp_path / "rooms"),
        reverb_probability=1.0,
        mel_shift=3.0,
        tempo=0.15,
    )


def augment(augmenter: Augmenter, epoch: int) -> tuple[Array, Array]:
    generator, timing = random_generator(1, epoch, "84-121123-0000"), Timing(1.0, 0.1, 0.2, 0.9)
    return (
        augmenter.augment_waveform(random_array(8000), generator, timing),
        augmenter.augment_features(random_array(200, 80), generator, timing),
    )


# Silence


def test_silence_has_the_planned_lengths() -> None:
    augmenter = Augmenter(only(), RATE)
    speech = 0.5 * np.sign(np.sin(np.arange(RATE) + 0.5)).astype(np.float32)
    loudness = []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        seconds = generator.uniform(0.001, 0.5, 2)
        augmented = augmenter.augment_waveform(speech, generator, Timing(1.0, *seconds))
        assert augmented.dtype == np.float32
        before, after = (int(length * RATE) for length in seconds)
        np.testing.assert_array_equal(augmented[before : before + RATE], speech)
        assert len(augmented) == before + RATE + after
        assert 0 < np.abs(augmented[:before]).max() < 0.5
        loudness.append(20 * np.log10(np.sqrt(np.square(augmented[:before]).mean() + 1e-12)))
    one_sided = augmenter.augment_waveform(speech, np.random.default_rng(0), Timing(after=0.25))
    np.testing.assert_array_equal(one_sided[:RATE], speech)
    assert len(one_sided) == 1.25 * RATE
    unchanged = augmenter.augment_waveform(speech, np.random.default_rng(0))
    np.testing.assert_array_equal(unchanged, speech)
    assert -90 < min(loudness) < -75
    assert -55 < max(loudness) < -44


# Draws


def test_a_generator_depends_only_on_its_four_values() -> None:
    def draw(*key: Any) -> list[float]:
        return random_generator(*key).random(4).tolist()

    assert draw(1, 2, "a", "b") == draw(1, 2, "a", "b")
    assert draw(np.int64(1), np.int64(2), "a") == draw(1, 2, "a")
    keys = [
        (1, 2, "a", "b"),
        (2, 2, "a", "b"),
        (1, 3, "a", "b"),
        (1, 2, "c", "b"),
        (1, 2, "a", "d"),
        (1, 2, "ba", ""),  # the same letters, divided differently
        (1, 2, "", "ba"),
        (12, 2, "a", "b"),
        (1, 2, "\udcff", ""),  # from a file name that is not UTF-8
    ]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_a_generator_is_the_same_on_every_machine() -> None:
    raw = random_generator(7, 3, "84-121123-0000", "damage").bit_generator.random_raw(2)
    assert raw.tolist() == [15813879879436329366, 1920478505062633082]


def test_augmentation_is_reproducible_and_differs_between_epochs(
    folders: AugmentConfig,
) -> None:
    augmenter = Augmenter(folders, RATE)
    first, again, other = augment(augmenter, 0), augment(augmenter, 0), augment(augmenter, 1)
    for index in range(2):
        np.testing.assert_array_equal(first[index], again[index])
        assert first[index].dtype == np.float32
        assert first[index].shape != other[index].shape or (first[index] != other[index]).any()


def test_a_spawned_process_gives_the_same_bits(folders: AugmentConfig) -> None:
    augmenter = Augmenter(folders, RATE)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(augment, (augmenter, 5))
    for here, there in zip(augment(augmenter, 5), elsewhere, strict=True):
        np.testing.assert_array_equal(here, there)


def test_inputs_are_not_changed_in_place(folders: AugmentConfig) -> None:
    waveform, features = random_array(8000), random_array(200, 80)
    for config in (folders, AugmentConfig()):
        augmenter = Augmenter(config, RATE)
        augmenter.augment_waveform(waveform, random_generator(0, 0, "a"))
        augmenter.augment_features(features, random_generator(0, 0, "a"))
    np.testing.assert_array_equal(waveform, random_array(8000))
    np.testing.assert_array_equal(features, random_array(200, 80))


def test_with_everything_off_nothing_changes() -> None:
    augmenter = Augmenter(only(), RATE)
    waveform, features = random_array(8000), random_array(200, 80)
    generator = random_generator(0, 0, "a")
    np.testing.assert_array_equal(augmenter.augment_waveform(waveform, generator), waveform)
    np.testing.assert_array_equal(augmenter.augment_features(features, generator), features)


# Waveforms


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
def test_noise_is_mixed_like_torchaudio(snr_db: float) -> None:
    functional = pytest.importorskip("torchaudio.functional")
    import torch

    speech, noise = 0.1 * random_array(RATE), 0.7 * random_array(RATE, seed=1)
    expected = functional.add_noise(
        torch.from_numpy(speech), torch.from_numpy(noise), torch.tensor(snr_db)
    )
    np.testing.assert_allclose(add_noise(speech, noise, snr_db), expected.numpy(), atol=1e-6)


def test_level_and_position_of_noise_are_drawn(tmp_path: Path) -> None:
    write(tmp_path / "noise" / "ramp.wav", np.linspace(0.1, 1.0, 50_000, dtype=np.float32))
    config = only(noise_folder=str(tmp_path), noise_probability=1.0, noise_snr_db=[5.0, 15.0])
    augmenter = Augmenter(config, RATE)
    speech = random_array(20_000)
    levels, starts = [], set()
    for epoch in range(200):
        noise = augmenter.augment_waveform(speech, random_generator(0, epoch, "a")) - speech
        levels.append(10 * np.log10(np.square(speech).sum() / np.square(noise).sum()))
        starts.add(round(float(noise[0] / noise[-1]), 3))
    assert 5 - 1e-3 <= min(levels) < 6
    assert 14 < max(levels) <= 15 + 1e-3
    assert len(starts) > 100


def test_short_noise_is_repeated(tmp_path: Path) -> None:
    cycle = np.array([1.0, 2.0, 3.0, -4.0, 5.0], dtype=np.float32) / 8
    write(tmp_path / "noise" / "cycle.wav", cycle)
    augmenter = Augmenter(only(noise_folder=str(tmp_path), noise_probability=1.0), RATE)
    speech = random_array(23)
    firsts = set()
    for epoch in range(50):
        noise = augmenter.augment_waveform(speech, random_generator(0, epoch, "a")) - speech
        np.testing.assert_allclose(noise[5:], noise[:-5], atol=1e-6)
        order = int(np.argmax(noise[:5]))
        np.testing.assert_allclose(
            np.roll(noise[:5], -order) / noise[order], np.roll(cycle, -4) / cycle[4], atol=1e-4
        )
        firsts.add(order)
    assert firsts == set(range(5))


@pytest.mark.parametrize("samples", [9000, 40_000])
@pytest.mark.parametrize("size", [50, 4000, 30_000])
def test_reverberation_equals_torchaudios_convolution(samples: int, size: int) -> None:
    functional = pytest.importorskip("torchaudio.functional")
    import torch

    waveform = random_array(samples)
    room = random_array(size, seed=1)
    room[0] = 10  # the direct sound comes first, so nothing is cut off
    response = align_response(room)
    expected = functional.fftconvolve(
        torch.from_numpy(waveform).double(), torch.from_numpy(response).double()
    )
    wet = reverberate(waveform, response)
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected.numpy()[:samples], atol=1e-5)


def test_aligned_responses_have_no_delay_and_unit_energy() -> None:
    room = np.zeros(3000, dtype=np.float32)
    room[[700, 900, 1500]] = [-0.5, 0.3, 0.1]
    aligned = align_response(room)
    assert np.abs(aligned).argmax() == 0
    assert np.square(aligned).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(aligned[[200, 800]] / aligned[0], [-0.6, -0.2], rtol=1e-6)
    click = np.zeros(5000, dtype=np.float32)
    click[1234] = 1.0
    assert np.abs(reverberate(click, aligned)).argmax() == 1234


def test_the_first_channel_of_a_response_is_resampled(tmp_path: Path) -> None:
    room = np.zeros((8000, 2), dtype=np.float32)
    room[1000, 0], room[3000, 0], room[500, 1] = 0.5, 0.25, 1.0
    write(tmp_path / "rooms" / "stereo.wav", room, rate=2 * RATE)
    (response,) = Augmenter(only(reverb_folder=str(tmp_path)), RATE).responses
    assert np.abs(response).argmax() == 0
    assert 100 + np.abs(response[100:]).argmax() == 1000
    assert np.square(response).sum() == pytest.approx(1.0)


def test_gain_is_uniform_in_decibels() -> None:
    augmenter = Augmenter(only(gain_db=6.0), RATE)
    one = np.ones(4, dtype=np.float32)
    levels = [
        20 * np.log10(augmenter.augment_waveform(one, random_generator(0, epoch, "a"))[0])
        for epoch in range(400)
    ]
    assert -6 <= min(levels) < -5.5
    assert 5.5 < max(levels) <= 6
    assert abs(np.mean(levels)) < 0.6


def test_noise_and_reverberation_have_the_configured_probability(folders: AugmentConfig) -> None:
    speech = random_array(400)
    for key in ("noise", "reverb"):
        values = {f"{key}_folder": getattr(folders, f"{key}_folder"), f"{key}_probability": 0.3}
        augmenter = Augmenter(only(**values), RATE)
        changed = [
            (augmenter.augment_waveform(speech, random_generator(0, epoch, "a")) != speech).any()
            for epoch in range(500)
        ]
        assert 0.22 < np.mean(changed) < 0.38


@pytest.mark.parametrize("samples", [1, 100, 40_000])
def test_silence_and_lengths_are_preserved(folders: AugmentConfig, samples: int) -> None:
    augmenter = Augmenter(folders, RATE)
    silence = np.zeros(samples, dtype=np.float32)
    np.testing.assert_array_equal(
        augmenter.augment_waveform(silence, random_generator(0, 0, "a")), silence
    )
    augmented = augmenter.augment_waveform(random_array(samples), random_generator(0, 0, "a"))
    assert augmented.shape == (samples,)
    assert augmented.dtype == np.float32


def test_silent_noise_adds_nothing() -> None:
    speech = random_array(100)
    np.testing.assert_array_equal(add_noise(speech, np.zeros_like(speech), 10.0), speech)


def test_real_noise_and_real_rooms(shared: Path) -> None:
    config = only(
        noise_folder=str(shared / "noise"),
        noise_probability=1.0,
        noise_snr_db=[10.0, 10.0],
        reverb_folder=str(shared / "rir"),
        reverb_probability=1.0,
    )
    augmenter = Augmenter(config, RATE)
    assert len(augmenter.noises) == 6
    assert len(augmenter.responses) == 20
    speech = 0.05 * random_array(4 * RATE)
    for epoch in range(20):
        augmented = augmenter.augment_waveform(speech, random_generator(0, epoch, "a"))
        assert np.isfinite(augmented).all()
        gain = np.sqrt(np.square(augmented).mean() / np.square(speech).mean())
        assert 0.5 < gain < 1.5


# Features


@given(
    st.integers(1, 400),
    st.integers(1, 100),
    st.integers(0, 120),
    st.floats(0, 1),
    st.integers(0, 100),
    st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_masks_have_at_most_the_configured_width(
    frames: int, mels: int, mask_frames: int, fraction: float, mask_bins: int, epoch: int
) -> None:
    config = only(
        time_masks=1,
        time_mask_frames=mask_frames,
        time_mask_fraction=fraction,
        mel_masks=1,
        mel_mask_bins=mask_bins,
    )
    features = np.ones((frames, mels), dtype=np.float32)
    masked = Augmenter(config, RATE).augment_features(features, random_generator(0, epoch, "a"))
    assert masked.shape == features.shape
    assert set(np.unique(masked)) <= {0.0, 1.0}
    rows, columns = masked.max(axis=1), masked.max(axis=0)
    np.testing.assert_array_equal(masked, rows[:, None] * columns if masked.any() else 0 * features)
    if masked.any():
        for line, widest in (
            (rows, min(mask_frames, int(frames * fraction))),
            (columns, min(mask_bins, mels)),
        ):
            assert np.sum(line == 0) <= widest
            assert np.count_nonzero(np.diff(line, prepend=1, append=1)) in (0, 2)  # one span


def draw_masks(config: AugmentConfig, size: int, axis: int, count: int) -> npt.NDArray[np.int64]:
    """(start, stop) of the single mask of each epoch, (0, 0) if its width is 0."""
    augmenter = Augmenter(config, RATE)
    ones = np.ones((size, 3) if axis == 0 else (3, size), dtype=np.float32)
    spans = []
    for epoch in range(count):
        line = augmenter.augment_features(ones, random_generator(0, epoch, "a")).max(axis=1 - axis)
        masked = np.flatnonzero(line == 0)
        spans.append((masked[0], masked[-1] + 1) if len(masked) else (0, 0))
    return np.array(spans)


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_have_torchaudios_distribution(axis: int) -> None:
    """Widths are uniform in 0..widest, as torchaudio's are for `mask_param` widest + 1."""
    transforms = pytest.importorskip("torchaudio.transforms")
    import torch

    size, widest, count = 100, 9, 4000
    ours = draw_masks(
        only(time_masks=1, time_mask_frames=widest, time_mask_fraction=1.0)
        if axis == 0
        else only(mel_masks=1, mel_mask_bins=widest),
        size,
        axis,
        count,
    )
    mask = (transforms.TimeMasking if axis == 0 else transforms.FrequencyMasking)(
        widest + 1, iid_masks=True
    )
    shape = (count, 1, 3, size) if axis == 0 else (count, 1, size, 3)  # torchaudio: time last
    with torch.random.fork_rng():
        torch.manual_seed(0)
        line = (
            mask(torch.ones(shape))[:, 0].amax(dim=1 if axis == 0 else 2).numpy()
        )  # (count, size)
    assert ours.max() == size  # the last frame can be masked, too
    widths = np.diff(ours)[:, 0]
    theirs = (line == 0).sum(axis=1)
    for width in range(widest + 1):
        assert abs(np.mean(widths == width) - 0.1) < 0.02
        assert abs(np.mean(theirs == width) - 0.1) < 0.02
    covered = np.zeros(size)
    for start, stop in ours:
        covered[start:stop] += 1 / count
    np.testing.assert_allclose(covered, (line == 0).mean(axis=0), atol=0.025)


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_at_the_same_position_equal_torchaudios(
    axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    functional = pytest.importorskip("torchaudio.functional")
    import torch

    size, widest = 60, 20
    config = (
        only(time_masks=1, time_mask_frames=widest, time_mask_fraction=1.0)
        if axis == 0
        else only(mel_masks=1, mel_mask_bins=widest)
    )
    features = random_array(60, 60)
    ones = np.ones_like(features)
    for epoch in range(20):
        generator = random_generator(0, epoch, "a")
        line = Augmenter(config, RATE).augment_features(ones, generator).max(axis=1 - axis)
        masked = np.flatnonzero(line == 0)
        width, start = len(masked), int(masked[0]) if len(masked) else 0
        value = width + 0.5  # torchaudio: width = floor(rand · param), start = floor(rand · rest)
        draws = iter([value / (widest + 1), min(start + 0.5, size - value) / (size - value)])
        monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor([next(draws)]))  # noqa: B023
        expected = functional.mask_along_axis(
            torch.from_numpy(features)[None], mask_param=widest + 1, mask_value=0.0, axis=1 + axis
        )
        monkeypatch.undo()
        ours = Augmenter(config, RATE).augment_features(features, random_generator(0, epoch, "a"))
        np.testing.assert_array_equal(ours, expected[0].numpy())


@pytest.mark.parametrize(("frames", "target"), [(1, 3), (7, 7), (100, 87), (100, 117), (5, 1)])
def test_tempo_equals_torchs_linear_interpolation(frames: int, target: int) -> None:
    import torch

    features = random_array(frames, 8)
    centers = (np.arange(target) + 0.5) * (frames / target) - 0.5
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(features.T.astype(np.float64))[None],
        size=target,
        mode="linear",
        align_corners=False,
    )
    ours = interpolate(features, centers, axis=0)
    np.testing.assert_allclose(ours, expected[0].numpy().T, atol=1e-5)


def test_tempo_scales_time_linearly() -> None:
    augmenter = Augmenter(only(), RATE)
    ramp = np.repeat(np.linspace(0, 1, 500, dtype=np.float32)[:, None], 4, axis=1)
    for tempo in np.linspace(0.5, 1.5, 101):
        timing, generator = Timing(tempo=float(tempo)), np.random.default_rng(0)
        augmented = augmenter.augment_features(ramp, generator, timing)
        assert len(augmented) == math.ceil(500 / tempo)
        np.testing.assert_allclose(augmented[:, 0], np.linspace(0, 1, len(augmented)), atol=2e-3)
        backwards = augmenter.augment_features(ramp[::-1], generator, timing)
        np.testing.assert_allclose(
            backwards[::-1], augmented, atol=1e-5
        )  # both ends are treated alike


@pytest.mark.parametrize("tempo", [0.0, 0.05, 0.15, 0.5])
def test_the_fastest_speed_gives_the_fewest_frames(tempo: float) -> None:
    def frames(samples: float) -> int:
        return max(0, 1 + (round(samples) - 400) // 160)

    config = only(speeds=[0.9, 1.1], tempo=tempo)
    augmenter, generator = Augmenter(config, RATE), np.random.default_rng(0)
    for samples in range(400, 6000, 3):
        for speed in config.speeds:
            features = np.zeros((frames(samples / speed), 1), dtype=np.float32)
            augmented = augmenter.augment_features(features, generator, Timing(tempo=1 + tempo))
            assert len(augmented) >= frames(samples / config.fastest)
            assert len(augmented) >= min(1, len(features))


@pytest.mark.parametrize("bins", [-3.0, -0.4, 0.0, 1.7, 100.0])
def test_a_mel_shift_interpolates_and_repeats_the_edges(bins: float) -> None:
    features = random_array(20, 40)
    ours = interpolate(features, np.arange(40) - bins, axis=1)
    expected = np.stack([np.interp(np.arange(40) - bins, np.arange(40), row) for row in features])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_mel_shifts_are_uniform_within_the_configured_range() -> None:
    augmenter = Augmenter(only(mel_shift=3.0), RATE)
    ramp = np.arange(80, dtype=np.float32)[None].repeat(5, axis=0)
    shifts = [
        40 - augmenter.augment_features(ramp, random_generator(0, epoch, "a"))[2, 40]
        for epoch in range(300)
    ]
    assert -3 <= min(shifts) < -2.8
    assert 2.8 < max(shifts) <= 3
    assert abs(np.mean(shifts)) < 0.4


def test_single_and_empty_features_are_augmented() -> None:
    augmenter = Augmenter(AugmentConfig(mel_shift=2.0, time_mask_fraction=1.0), RATE)
    for epoch, tempo in enumerate(np.linspace(0.5, 1.5, 20)):
        generator, timing = random_generator(0, epoch, "a"), Timing(tempo=float(tempo))
        assert len(augmenter.augment_features(random_array(1, 80), generator, timing)) >= 1
        assert augmenter.augment_features(random_array(0, 80), generator, timing).size == 0


# Configuration and folders


def test_the_defaults_need_no_folder() -> None:
    config = AugmentConfig()
    augmenter = pickle.loads(pickle.dumps(Augmenter(config, RATE)))
    features = random_array(300, 80)
    augmented = augmenter.augment_features(features, random_generator(0, 0, "a"))
    assert (augmented == 0).any()
    assert (augmented == features).any()
    assert config.fastest == 1.1
    assert AugmentConfig(speeds=[1.2, 0.8], tempo=0.1).fastest == pytest.approx(1.32)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("speeds", []),
        ("speeds", [1.0, 0.0]),
        ("speeds", [float("nan")]),
        ("gain_db", -1.0),
        ("gain_db", float("inf")),
        ("noise_probability", 1.1),
        ("noise_snr_db", [10.0]),
        ("noise_snr_db", [20.0, 10.0]),
        ("noise_snr_db", [float("nan"), 10.0]),
        ("reverb_probability", -0.1),
        ("mel_shift", -1.0),
        ("mel_shift", float("nan")),
        ("tempo", 1.0),
        ("tempo", -0.1),
        ("time_masks", -1),
        ("time_mask_frames", -1),
        ("time_mask_fraction", 1.5),
        ("mel_masks", -1),
        ("mel_mask_bins", -1),
    ],
)
def test_an_invalid_value_is_refused_with_its_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        AugmentConfig(**{key: value})
    assert f"augment.{key} is {value!r}" in str(caught.value)


def make_text(folder: Path) -> None:
    (folder / "text.wav").write_text("this is no recording")


def make_silence(folder: Path) -> None:
    write(folder / "silence.wav", np.zeros(100, dtype=np.float32))


def make_not_a_number(folder: Path) -> None:
    write(folder / "nan.wav", np.full(100, np.nan, dtype=np.float32))


@pytest.mark.parametrize("key", ["noise_folder", "reverb_folder"])
@pytest.mark.parametrize("make", [make_text, make_silence, make_not_a_number])
def test_an_invalid_recording_is_refused_by_name(
    tmp_path: Path, key: str, make: Callable[[Path], None]
) -> None:
    write(tmp_path / "good.wav", random_array(500))
    make(tmp_path)
    with pytest.raises(AudioError, match=make.__name__.removeprefix("make_").split("_")[0][:3]):
        Augmenter(AugmentConfig(**{key: str(tmp_path)}), RATE)


@pytest.mark.parametrize("key", ["noise_folder", "reverb_folder"])
def test_a_folder_without_recordings_is_refused_with_its_key(tmp_path: Path, key: str) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=f"augment.{key} is .*{folder.name}"):
            Augmenter(AugmentConfig(**{key: str(folder)}), RATE)


@pytest.mark.parametrize("key", ["noise", "reverb"])
def test_an_unused_folder_is_not_read(tmp_path: Path, key: str) -> None:
    values = {f"{key}_folder": str(tmp_path / "missing"), f"{key}_probability": 0.0}
    Augmenter(AugmentConfig(**values), RATE)
