"""Training-time damage: the same words from another room, another voice and with pieces missing.

    waveform --> [speed] --> silence --> reverberation --> noise --> gain
             --> [features] --> tempo --> mel shift --> masks

`Augmenter` damages; `AugmentConfig` holds the ranges; `random_generator` makes every draw a pure
function of (seed, epoch, utterance), so that a resumed run meets the very same damage. No BLAS is
called: its sums depend on the number of threads, which differs between a loader's workers.

What changes an utterance's length, its `Timing`, is drawn by `asr.data.planning`, because it decides
how
long a batch is. Speed: Ko et al. 2015. Masks: SpecAugment (Park et al. 2019). The mel shift stands
for another length of vocal tract (after Jaitly & Hinton 2013), the tempo for another rate of speech
at the same pitch.
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
from asr.errors import AudioError, ConfigError

Array = npt.NDArray[np.float32]

SILENCE_DB = (-85.0, -45.0)  # of its noise, below full scale

REVERB_SAMPLES = 8192  # in the pieces that are convolved: the fastest size for speech


@dataclass
class AugmentConfig:
    """How much damage. As it stands: three speeds and mild masks; the rest is off.

    0 turns a kind of damage off, an empty string a folder, and `speeds=[1.0]` the change of speed.
    A folder's recordings are held in the memory of every worker: 230 MB an hour at 16 kHz.
    """

    speeds: list[float] = field(default_factory=lambda: list(SPEEDS))  # 1.1 is faster, shorter
    silence_seconds: float = 0.0  # before and after, each at most this, with faint noise
    gain_db: float = 0.0  # up or down by at most this
    noise_folder: str = ""
    noise_probability: float = 0.5
    noise_snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])  # lowest, highest
    reverb_folder: str = ""  # of impulse responses
    reverb_probability: float = 0.3
    mel_shift: float = 0.0  # mel bins, up or down by at most this, fractions included
    tempo: float = 0.0  # 0.15: the frames run by 0.85 to 1.15 times as fast
    time_masks: int = 2
    time_mask_frames: int = 50  # feature frames: the widest mask
    time_mask_fraction: float = 0.15  # and no mask is more than this part of its utterance
    mel_masks: int = 2
    mel_mask_bins: int = 20  # the widest mask

    def __post_init__(self) -> None:
        snr = self.noise_snr_db
        rules = {
            "speeds": (
                len(self.speeds) > 0 and all(0 < speed < math.inf for speed in self.speeds),
                "a list of at least one factor, each above 0",
            ),
            "silence_seconds": (0 <= self.silence_seconds <= 10, "from 0 to 10"),
            "gain_db": (0 <= self.gain_db <= 60, "from 0 to 60"),
            "noise_probability": (0 <= self.noise_probability <= 1, "from 0 to 1"),
            "noise_snr_db": (
                len(snr) == 2 and -100 <= snr[0] <= snr[1] <= 100,
                "two levels, the lower first, from -100 to 100",
            ),
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
                raise ConfigError(f"augment.{key} is {getattr(self, key)!r}; it must be {rule}.")

    @property
    def fastest(self) -> float:
        """The largest total speed-up: what fits its transcript at this speed always fits.

        Tempo rounds frames up, so that at any drawn speed and tempo an utterance of N samples keeps
        at least as many frames as round(N / fastest) samples have.
        """
        return max(self.speeds) * (1 + self.tempo)


class Timing(NamedTuple):
    """How an utterance's time is changed; `UNCHANGED` is how it is not."""

    speed: float = 1.0  # the recording is played so many times as fast
    before: float = 0.0  # seconds of silence before it, once it is played
    after: float = 0.0  # and after it
    tempo: float = 1.0  # and the frames of all that run so many times as fast


UNCHANGED = Timing()


def random_generator(
    seed: int, epoch: int, utterance_id: str, purpose: str = ""
) -> np.random.Generator:
    """A generator that depends on these four values alone, on any platform, in any process.

    Give draws that must not move each other different purposes.
    """
    text = f"{seed} {epoch} {len(purpose)} {purpose}{utterance_id}"  # no two keys share a text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Augmenter:
    """Damages waveforms and features as an `AugmentConfig` says.

    Everything but the timing is drawn from the generator that is passed in, and no input is changed
    in place. The folders are read here, once, so that a bad file stops a training before it begins;
    a worker process receives a copy of what was read.

    Raises ConfigError for a folder that does not exist or holds no recording, and AudioError for a
    recording that cannot be read or is silent.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.config = config
        self._sample_rate = sample_rate
        self.noises: list[Array] = []
        self.responses: list[Array] = []
        if config.noise_probability:
            self.noises = _load_folder("noise_folder", config.noise_folder, load_audio, sample_rate)
        if config.reverb_probability:
            responses = _load_folder(
                "reverb_folder", config.reverb_folder, _load_first_channel, sample_rate
            )
            self.responses = [align_response(response) for response in responses]

    def digest(self) -> str:
        """A hash of the folders' recordings."""
        hashed = hashlib.blake2b(digest_size=16)
        for recording in [*self.noises, *self.responses]:
            hashed.update(len(recording).to_bytes(8, "little"))
            hashed.update(recording.tobytes())
        return hashed.hexdigest()

    def augment_waveform(
        self, waveform: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> Array:
        """A waveform (N,), played at its speed, in a drawn room, with drawn noise, at a drawn level.

        (N,), and longer by the silence around it.
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
        """The waveform with faint noise before and after it."""
        before, after = (
            int(seconds * self._sample_rate) for seconds in (timing.before, timing.after)
        )
        loudness = 10 ** (generator.uniform(*SILENCE_DB) / 20)
        noise = generator.standard_normal(before + after, np.float32) * np.float32(loudness)
        return np.concatenate([noise[:before], waveform, noise[before:]])

    def augment_features(
        self, features: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> Array:
        """Features (T, F) of one utterance at its tempo, shifted and masked: (T', F).

        T' is T / tempo rounded up. Masks are 0, the mean of normalized features.
        """
        return self._mask(self._warp(features, generator, timing.tempo), generator)

    def augment_features_twice(
        self, features: Array, generator: np.random.Generator, timing: Timing = UNCHANGED
    ) -> tuple[Array, Array]:
        """What `augment_features` makes, and the same under other masks: (T', F) both."""
        warped = self._warp(features, generator, timing.tempo)
        return self._mask(warped, generator), self._mask(warped, generator)

    def _warp(self, features: Array, generator: np.random.Generator, tempo: float) -> Array:
        """Features (T, F) at a tempo, (T', F), and shifted."""
        config = self.config
        if tempo != 1.0:
            frames = math.ceil(len(features) / tempo)
            # Both ends of the utterance stay where they are, whatever the rounding.
            centers = (np.arange(frames) + 0.5) * (len(features) / max(frames, 1)) - 0.5
            features = interpolate(features, centers, axis=0)
        if config.mel_shift:
            bins = generator.uniform(-config.mel_shift, config.mel_shift)
            features = interpolate(features, np.arange(features.shape[1]) - bins, axis=1)
        return features

    def _mask(self, features: Array, generator: np.random.Generator) -> Array:
        """A copy of features (T, F) with drawn spans of frames and of bins set to 0."""
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

    # In pieces whose spectra fit into a cache: faster than one transform of everything.
    pieces = fft.rfft(_split(waveform), 2 * REVERB_SAMPLES)  # (M, REVERB_SAMPLES + 1)
    # What comes after the first N samples of the response is not heard any more.
    echoes = fft.rfft(_split(response[: len(waveform)]), 2 * REVERB_SAMPLES)
    spectra = np.zeros_like(pieces)
    for delay, echo in enumerate(echoes):
        spectra[delay:] += pieces[: len(pieces) - delay] * echo
    halves = fft.irfft(spectra, 2 * REVERB_SAMPLES)
    wet: Array = halves[:, :REVERB_SAMPLES].copy()
    wet[1:] += halves[:-1, REVERB_SAMPLES:]  # each piece rings on through the next
    return wet.reshape(-1)[: len(waveform)]


def add_noise(waveform: Array, noise: Array, snr_db: float) -> Array:
    """A waveform (N,) plus noise (N,), scaled to `snr_db` below the waveform's power.

    Silence stays silent, and silent noise adds nothing.
    """
    signal_energy, noise_energy = float(np.square(waveform).sum()), float(np.square(noise).sum())
    if noise_energy == 0:
        return waveform
    return waveform + noise * (math.sqrt(signal_energy / noise_energy) * 10 ** (-snr_db / 20))


def interpolate(features: Array, positions: npt.NDArray[np.floating], axis: int) -> Array:
    """Features read at fractional positions along an axis, linearly; beyond an edge, the edge."""
    last = features.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    lower = positions.astype(np.intp)
    weight = (positions - lower).astype(np.float32)
    left: Array = features.take(lower, axis)
    right: Array = features.take(np.minimum(lower + 1, last), axis)
    return left + (right - left) * (weight[:, None] if axis == 0 else weight)


def align_response(response: Array) -> Array:
    """An impulse response from its highest peak on, of energy 1.

    The peak is the direct sound: cut to here, it stays where the transcript's times say it is.
    """
    response = response[np.abs(response).argmax() :]
    aligned: Array = response / np.sqrt(np.square(response).sum())
    return aligned


def _load_folder(
    key: str, folder: str, load: Callable[[Path, int], Array], sample_rate: int
) -> list[Array]:
    """All recordings of a folder, in the order of their names; none where no folder is named."""
    if not folder:
        return []
    paths = find_audio(folder) if Path(folder).is_dir() else []
    if not paths:
        raise ConfigError(
            f"augment.{key} is {folder!r}, where no recording was found; "
            "name a folder of recordings, or leave it empty."
        )
    recordings = []
    for path in paths:
        recording = load(path, sample_rate)
        if not 0 < np.square(recording, dtype=np.float64).sum() < math.inf:
            raise AudioError(f"{path} is silent or not finite; take it out of augment.{key}.")
        recordings.append(recording)
    return recordings


def _load_first_channel(path: Path, sample_rate: int) -> Array:
    """One microphone of an impulse response: a mean of several would comb its direct sound."""
    import soundfile
    import soxr

    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (N, channels)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} cannot be read as an impulse response ({error.error_string}); "
            "convert it to wav or flac, or take it out of the folder."
        ) from error
    response: Array = soxr.resample(channels[:, 0], rate, sample_rate)
    return response


def _crop(noise: Array, samples: int, generator: np.random.Generator) -> Array:
    """`samples` of a noise from a drawn place, going round where the noise is shorter."""
    if len(noise) >= samples:
        start = generator.integers(len(noise) - samples + 1)
        return noise[start : start + samples]
    return np.resize(np.roll(noise, -generator.integers(len(noise))), samples)


def _split(signal: Array) -> Array:
    """A signal (N,) as pieces (M, REVERB_SAMPLES), the last one filled up with zeros."""
    pieces = -(-len(signal) // REVERB_SAMPLES)
    return np.pad(signal, (0, pieces * REVERB_SAMPLES - len(signal))).reshape(pieces, -1)


def _draw_span(size: int, widest: int, generator: np.random.Generator) -> slice:
    """A span inside [0, size): width uniform in 0..widest, then start uniform where it fits."""
    width = int(generator.integers(widest + 1))
    start = int(generator.integers(size - width + 1))
    return slice(start, start + width)
