"""Data augmentation: speed, silence, reverberation, noise, gain, tempo, mel shift and masks.

    waveform --> [speed] --> silence --> reverberation --> noise --> gain
             --> [features] --> tempo --> mel shift --> masks

`Augmenter` applies the augmentation and `AugmentConfig` holds its ranges. `random_generator` makes
every draw a pure function of (seed, epoch, utterance), so that a resumed run draws the same
augmentation. This module avoids BLAS, whose sums depend on the number of threads, which differs
between a loader's workers.

Changes of an utterance's length, its `Timing`, are drawn by `asr.data.planning`, because they
determine the length of a batch. Sources: speed perturbation from Ko et al. 2015, masks from
SpecAugment (Park et al. 2019). The mel shift simulates another length of the vocal tract (after
Jaitly and Hinton 2013), the tempo another rate of speech at the same pitch.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asr.audio.waveform import find_audio, load_audio
from asr.defaults import SPEEDS
from asr.errors import AudioError, ConfigError, quote

Array = npt.NDArray[np.float32]

# Level of the noise in added silence, in dB relative to full scale: lowest and highest.
SILENCE_DB = (-85.0, -45.0)

# Block size of the convolution in samples; the fastest one for speech.
REVERB_SAMPLES = 8192


@dataclass
class AugmentConfig:
    """The kinds of augmentation and their ranges; by default three speeds and mild masks.

    A value of 0 or an empty string turns a kind of augmentation off, and `speeds=[1.0]` turns off
    the change of speed. Every worker holds the recordings of both folders in memory: 230 MB per hour
    of audio at 16 kHz.

    Args:
        speeds: Speed factors, of which one is drawn for each utterance; 1.1 is faster and shorter.
        silence_seconds: Maximum silence before and after an utterance, filled with faint noise.
        gain_db: Maximum change of level, up or down.
        noise_folder: Folder of noise recordings.
        noise_probability: Probability that noise is added to an utterance.
        noise_snr_db: Lowest and highest signal-to-noise ratio.
        reverb_folder: Folder of room impulse responses.
        reverb_probability: Probability that an utterance is reverberated.
        mel_shift: Maximum shift of the spectrum in mel bins, up or down; shifts may be fractional.
        tempo: Maximum relative change of tempo: 0.15 draws factors between 0.85 and 1.15.
        time_masks: Number of masks along time.
        time_mask_frames: Maximum width of a time mask in feature frames.
        time_mask_fraction: Maximum width of a time mask as a fraction of its utterance.
        mel_masks: Number of masks along the mel bins.
        mel_mask_bins: Maximum width of a mel mask in bins.

    Raises:
        ConfigError: If a value is outside its range.

    Example:
        >>> AugmentConfig(speeds=[0.9, 1.1], silence_seconds=0.5, tempo=0.0).fastest
        1.1
    """

    speeds: list[float] = field(default_factory=lambda: list(SPEEDS))
    silence_seconds: float = 0.0
    gain_db: float = 0.0
    noise_folder: str = ""
    noise_probability: float = 0.5
    noise_snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])
    reverb_folder: str = ""
    reverb_probability: float = 0.3
    mel_shift: float = 0.0
    tempo: float = 0.0
    time_masks: int = 2
    time_mask_frames: int = 50
    time_mask_fraction: float = 0.15
    mel_masks: int = 2
    mel_mask_bins: int = 20

    def __post_init__(self) -> None:
        are_speeds = len(self.speeds) > 0 and all(0 < speed < math.inf for speed in self.speeds)
        snr = self.noise_snr_db
        are_levels = len(snr) == 2 and -100 <= snr[0] <= snr[1] <= 100
        rules = {
            "speeds": (are_speeds, "a list of at least one factor, each above 0"),
            "silence_seconds": (0 <= self.silence_seconds <= 10, "from 0 to 10"),
            "gain_db": (0 <= self.gain_db <= 60, "from 0 to 60"),
            "noise_probability": (0 <= self.noise_probability <= 1, "from 0 to 1"),
            "noise_snr_db": (are_levels, "two levels, the lower first, from -100 to 100"),
            "reverb_probability": (0 <= self.reverb_probability <= 1, "from 0 to 1"),
            "mel_shift": (0 <= self.mel_shift < math.inf, "0 or more"),
            "tempo": (0 <= self.tempo < 1, "at least 0 and below 1"),
            "time_masks": (self.time_masks >= 0, "0 or more"),
            "time_mask_frames": (self.time_mask_frames >= 0, "0 or more"),
            "time_mask_fraction": (0 <= self.time_mask_fraction <= 1, "from 0 to 1"),
            "mel_masks": (self.mel_masks >= 0, "0 or more"),
            "mel_mask_bins": (self.mel_mask_bins >= 0, "0 or more"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(
                    f"augment.{key} is {quote(getattr(self, key))}; it must be {rule}"
                )

    @property
    def fastest(self) -> float:
        """The largest total speed-up that can be drawn.

        Changing the tempo rounds the number of frames up, so that at every drawn speed and tempo an
        utterance of N samples has at least as many frames as round(N / fastest) samples.
        """
        return max(self.speeds) * (1 + self.tempo)


class Timing(NamedTuple):
    """The changes of an utterance's length, in the order in which they are applied.

    Attributes:
        speed: Factor by which the recording is played faster.
        before: Seconds of silence before the recording.
        after: Seconds of silence after the recording.
        tempo: Factor by which the feature frames run faster.
    """

    speed: float = 1.0
    before: float = 0.0
    after: float = 0.0
    tempo: float = 1.0


UNCHANGED = Timing()


def random_generator(
    seed: int, epoch: int, utterance_id: str, purpose: str = ""
) -> np.random.Generator:
    """A generator that depends only on these four values, on every platform and in every process.

    Give independent draws different purposes, so that one of them can change without the others.
    """
    # The length of `purpose` makes the text unique for each key.
    text = f"{seed} {epoch} {len(purpose)} {purpose}{utterance_id}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Augmenter:
    """Augments waveforms and features within the ranges of an `AugmentConfig`.

    Everything except the timing is drawn from the generator that the caller passes, and inputs are
    never changed in place. The constructor reads both folders, so that a bad file is reported before
    the first training step; worker processes receive a copy of the recordings.

    Args:
        config: The ranges of the augmentation.
        sample_rate: Sample rate of the waveforms, in Hz.

    Raises:
        ConfigError: If a folder is missing or contains no recording.
        AudioError: If a recording cannot be read or is silent.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.config = config
        self._sample_rate = sample_rate
        noises = config.noise_folder if config.noise_probability else ""
        self.noises = _load_folder("noise_folder", noises, load_audio, sample_rate)
        rooms = config.reverb_folder if config.reverb_probability else ""
        responses = _load_folder("reverb_folder", rooms, _load_first_channel, sample_rate)
        self.responses = [align_response(response) for response in responses]

    def digest(self) -> str:
        """A hash of the recordings of both folders."""
        hashed = hashlib.blake2b(digest_size=16)
        for recording in [*self.noises, *self.responses]:
            hashed.update(len(recording).to_bytes(8, "little"))
            hashed.update(recording.tobytes())
        return hashed.hexdigest()

    def augment_waveform(
        self, waveform: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> Array:
        """Add silence, reverberation, noise and gain to a waveform.

        Args:
            waveform: Samples (N,) that are already played at the drawn speed.
            generator: Source of all draws.
            timing: The drawn timing, whose silences are added.

        Returns:
            The augmented waveform (N,), longer by the added silence.
        """
        config = self.config
        if timing.before or timing.after:
            waveform = self._surround(waveform, generator, timing)
        if self.responses and generator.random() < config.reverb_probability:
            response = self.responses[generator.integers(len(self.responses))]
            waveform = reverberate(waveform, response)
        if self.noises and generator.random() < config.noise_probability:
            noise = self.noises[generator.integers(len(self.noises))]
            noise = _crop(noise, len(waveform), generator)
            low, high = config.noise_snr_db
            waveform = add_noise(waveform, noise, generator.uniform(low, high))
        if config.gain_db:
            decibels = generator.uniform(-config.gain_db, config.gain_db)
            waveform = waveform * 10 ** (decibels / 20)
        return waveform

    def _surround(self, waveform: Array, generator: np.random.Generator, timing: Timing) -> Array:
        """Add faint noise before and after the waveform."""
        before = int(timing.before * self._sample_rate)
        after = int(timing.after * self._sample_rate)
        loudness = 10 ** (generator.uniform(*SILENCE_DB) / 20)
        noise = generator.standard_normal(before + after, np.float32) * np.float32(loudness)
        return np.concatenate([noise[:before], waveform, noise[before:]])

    def augment_features(
        self, features: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> Array:
        """Change the tempo of features, shift them along the mel axis and mask them.

        Args:
            features: Normalized log-mel features (T, F) of one utterance.
            generator: Source of all draws.
            timing: The drawn timing, whose tempo is applied.

        Returns:
            The augmented features (T / tempo rounded up, F). Masked values are 0, the mean of
            normalized features.
        """
        return self._mask(self._warp(features, generator, timing.tempo), generator)

    def augment_features_twice(
        self, features: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> tuple[Array, Array]:
        """Two views of `augment_features` that differ only in their masks."""
        warped = self._warp(features, generator, timing.tempo)
        return self._mask(warped, generator), self._mask(warped, generator)

    def _warp(self, features: Array, generator: np.random.Generator, tempo: float) -> Array:
        """Change the tempo of features (T, F) and shift them along the mel axis."""
        config = self.config
        if tempo != 1.0:
            frames = math.ceil(len(features) / tempo)
            # Rounding leaves both ends of the utterance in place.
            centers = (np.arange(frames) + 0.5) * (len(features) / max(frames, 1)) - 0.5
            features = interpolate(features, centers, axis=0)
        if config.mel_shift:
            bins = generator.uniform(-config.mel_shift, config.mel_shift)
            features = interpolate(features, np.arange(features.shape[1]) - bins, axis=1)
        return features

    def _mask(self, features: Array, generator: np.random.Generator) -> Array:
        """A copy of features (T, F) in which drawn spans of frames and bins are 0."""
        config = self.config
        features = features.copy()
        frames, mels = features.shape
        widest = min(config.time_mask_frames, int(frames * config.time_mask_fraction))
        for _ in range(config.time_masks):
            features[_draw_span(frames, widest, generator)] = 0.0
        for _ in range(config.mel_masks):
            features[:, _draw_span(mels, min(config.mel_mask_bins, mels), generator)] = 0.0
        return features


def reverberate(waveform: Array, response: Array) -> Array:
    """The first N samples of a waveform (N,) convolved with an impulse response."""
    from scipy import fft

    # Blocks whose spectra fit into the cache are faster than a single transform.
    pieces = fft.rfft(_split(waveform), 2 * REVERB_SAMPLES)  # (M, REVERB_SAMPLES + 1)
    # Later samples of the response cannot reach the first N samples of the result.
    echoes = fft.rfft(_split(response[: len(waveform)]), 2 * REVERB_SAMPLES)
    spectra = np.zeros_like(pieces)
    for delay, echo in enumerate(echoes):
        spectra[delay:] += pieces[: len(pieces) - delay] * echo
    halves = fft.irfft(spectra, 2 * REVERB_SAMPLES)
    wet: Array = halves[:, :REVERB_SAMPLES].copy()
    wet[1:] += halves[:-1, REVERB_SAMPLES:]  # the tail of each block overlaps the next
    return wet.reshape(-1)[: len(waveform)]


def add_noise(waveform: Array, noise: Array, snr_db: float) -> Array:
    """Add noise (N,) to a waveform (N,), scaled to `snr_db` below the waveform's power.

    A silent waveform or silent noise leaves the waveform unchanged.
    """
    signal_energy, noise_energy = float(np.square(waveform).sum()), float(np.square(noise).sum())
    if noise_energy == 0:
        return waveform
    return waveform + noise * (math.sqrt(signal_energy / noise_energy) * 10 ** (-snr_db / 20))


def interpolate(features: Array, positions: npt.NDArray[np.floating], axis: int) -> Array:
    """Interpolate features linearly at fractional positions along an axis, repeating the edges.

    Args:
        features: Array (T, F).
        positions: Positions (M,) along the axis; those outside are clipped to the edges.
        axis: 0 for time, 1 for mel bins.

    Returns:
        (M, F) for axis 0, (T, M) for axis 1.
    """
    last = features.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    lower = positions.astype(np.intp)
    weight = (positions - lower).astype(np.float32)
    left: Array = features.take(lower, axis)
    right: Array = features.take(np.minimum(lower + 1, last), axis)
    return left + (right - left) * (weight[:, None] if axis == 0 else weight)


def align_response(response: Array) -> Array:
    """Cut an impulse response to begin at its highest peak, and scale it to energy 1.

    The peak is the direct sound; beginning there, a convolution adds no delay.
    """
    response = response[np.abs(response).argmax() :]
    aligned: Array = response / np.sqrt(np.square(response).sum())
    return aligned


def _load_folder(
    key: str, folder: str, load: Callable[[Path, int], Array], sample_rate: int
) -> list[Array]:
    """All recordings of a folder, ordered by name; an empty list if `folder` is empty."""
    if not folder:
        return []
    paths = find_audio(folder) if Path(folder).is_dir() else []
    if not paths:
        raise ConfigError(
            f"augment.{key} is {quote(folder)}, which contains no recording; "
            "specify a folder of recordings, or leave it empty"
        )
    recordings = []
    for path in paths:
        recording = load(path, sample_rate)
        if not 0 < np.square(recording, dtype=np.float64).sum() < math.inf:
            raise AudioError(f"{path} is silent or not finite; remove it from augment.{key}")
        recordings.append(recording)
    return recordings


def _load_first_channel(path: Path, sample_rate: int) -> Array:
    """The first channel of an impulse response.

    Averaging several microphones would comb-filter the direct sound.
    """
    import soundfile
    import soxr

    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (N, channels)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} cannot be read as an impulse response ({error.error_string}); "
            "convert it to wav or flac, or remove it from the folder"
        ) from error
    response: Array = soxr.resample(channels[:, 0], rate, sample_rate)
    return response


def _crop(noise: Array, samples: int, generator: np.random.Generator) -> Array:
    """A random excerpt of a noise; a noise shorter than `samples` is repeated."""
    if len(noise) >= samples:
        start = generator.integers(len(noise) - samples + 1)
        return noise[start : start + samples]
    return np.resize(np.roll(noise, -generator.integers(len(noise))), samples)


def _split(signal: Array) -> Array:
    """Cut a signal (N,) into blocks (M, REVERB_SAMPLES), padding the last one with zeros."""
    pieces = -(-len(signal) // REVERB_SAMPLES)
    return np.pad(signal, (0, pieces * REVERB_SAMPLES - len(signal))).reshape(pieces, -1)


def _draw_span(size: int, widest: int, generator: np.random.Generator) -> slice:
    """A random span of [0, size): first a uniform width in 0..widest, then a uniform start."""
    width = int(generator.integers(widest + 1))
    start = int(generator.integers(size - width + 1))
    return slice(start, start + width)
