"""Checks of the sound: silence, clipping, channels, levels and narrow bands."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.audio.containers import TOLERANCE_SECONDS
from asr.doctor.findings import ERROR, Recorder
from asr.doctor.measurements import Mask, Measurements, estimate_normal
from asr.doctor.sound import FOLD_HZ, Sound, measure_sound
from asr.errors import AudioError

T = TypeVar("T")


def measure_recordings(
    measurements: Measurements,
    recorder: Recorder,
    threads: int,
    on_progress: Callable[[int], object],
) -> None:
    """Decode and measure every recording; those that cannot be decoded become findings."""
    paths = (utterance.audio for utterance in measurements.utterances)
    results = map_in_order(measure_recording, paths, threads)
    for index, (result, cpu_seconds) in enumerate(results):
        measurements.reading_seconds += cpu_seconds
        if isinstance(result, AudioError):
            recorder.add("audio", index, str(result), ERROR)
        else:
            measurements.store(index, result)
            stated = measurements.utterances[index].seconds
            if abs(result.seconds - stated) > TOLERANCE_SECONDS:
                detail = f"lasts {result.seconds:.2f} s, but the manifest says {stated:.2f} s"
                recorder.add("duration", index, detail, ERROR)
        on_progress(1)


def measure_recording(path: str) -> tuple[Sound | AudioError, float]:
    """A recording's measurements, or why it cannot be read; and the CPU seconds this took."""
    began = time.thread_time()
    result: Sound | AudioError
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise AudioError(f"{path} is a pipe or a device, not a file; specify a recording")
        result = measure_sound(path)
    except AudioError as error:
        result = error
    except Exception as error:  # A single odd file must not end an examination that takes hours.
        reason = f"{type(error).__name__}: {error}"
        result = AudioError(f"{path} cannot be measured ({reason}); export it again")
    return result, time.thread_time() - began


def map_in_order(function: Callable[[str], T], items: Iterable[str], threads: int) -> Iterator[T]:
    """Yield the results in order, computed by threads that stay close ahead of the caller."""
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[T]] = deque(
            pool.submit(function, item) for item in islice(items, 2 * threads)
        )
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(items, 1))
        finally:
            for future in running:
                future.cancel()


# Channels whose mean is weaker than the channels by this many dB cancel each other out. Channels
# with unrelated sounds lose 3 dB.
CANCELING_DB = -10.0
# A peak of -60 dB of full scale is what a muted microphone leaves.
SILENT_PEAK = 0.001
# Speech rises above its own pauses by 10 dB in loud noise, and by 40 dB in a quiet room.
STEADY_DB = 6.0


def find_speech(measurements: Measurements, recorder: Recorder) -> Mask:
    """Report recordings without speech; return the mask (N,) of those with speech."""
    has_speech = np.zeros(len(measurements.utterances), np.bool_)
    for index in np.flatnonzero(measurements.readable).tolist():
        row = measurements.recordings[index]
        if row["downmix_gain"] <= CANCELING_DB:
            detail = f"mixing the channels to mono loses {-row['downmix_gain']:.0f} dB"
            recorder.add("phase", index, detail)
        elif row["peak"] < SILENT_PEAK:
            recorder.add("silence", index, f"no sample exceeds {row['peak']:.5f} of full scale")
        elif row["dynamic_range"] < STEADY_DB:
            detail = f"the level varies by only {row['dynamic_range']:.1f} dB"
            recorder.add("steady", index, detail)
        else:
            has_speech[index] = True
    return has_speech


def check_speech(measurements: Measurements, recorder: Recorder, has_speech: Mask) -> None:
    """Run the checks that need the measurements of one recording only."""
    for index in np.flatnonzero(has_speech).tolist():
        row = measurements.recordings[index]
        for kind, describe in SPEECH_CHECKS.items():
            if detail := describe(row):
                recorder.add(kind, index, detail)


# Two channels contain different voices if their correlation is below the first number, and neither
# is quieter than the other by as many dB as the second.
UNRELATED_CORRELATION = 0.3
AUDIBLE_BALANCE_DB = 20.0


def describe_channels(row: Any) -> str:
    """The correlation of the channels if they contain different sounds, else ""."""
    different = row["channel_correlation"] < UNRELATED_CORRELATION
    if different and row["channel_balance"] < AUDIBLE_BALANCE_DB:
        return f"the correlation of the channels is {row['channel_correlation']:.2f}"
    return ""


# This is 7 encoder frames of 40 ms, hardly enough for the shortest word.
SHORT_SECONDS = 0.3


def describe_shortness(row: Any) -> str:
    """The duration if it is too short for a word, else ""."""
    return f"lasts {row['seconds']:.2f} s" if row["seconds"] < SHORT_SECONDS else ""


# Lossy codecs overshoot full scale, but not by a factor of two.
HIGHEST_PEAK = 2.0


def describe_scale(row: Any) -> str:
    """The peak if the samples are on another scale than -1 to 1, else ""."""
    if row["peak"] >= HIGHEST_PEAK:
        return f"the samples reach {row['peak']:.4g}, although full scale is 1"
    return ""


# Clipping is audible when a thousandth of the active samples lie on flat tops; at most 0.0002 of
# them do in recordings without clipping.
CLIPPED_SHARE = 1e-3
# Lossy codecs bend the flat tops but leave all peaks equally high, which lowers the crest. Among
# 7,561 recordings of read speech, 3 have less than this; one has 1.29 and is loud but not clipped.
FULL_SCALE = 0.98
CLIPPED_CREST = 1.25


def describe_clipping(row: Any) -> str:
    """How many samples are clipped, unless they are few or on another scale."""
    if row["peak"] >= HIGHEST_PEAK:
        return ""
    if row["clipped_share"] >= CLIPPED_SHARE:
        share = f"{100 * row['clipped_share']:.1f} % of the speech samples"
        return f"{share} lie on flat tops at {row['peak']:.2f} of full scale"
    if row["peak"] >= FULL_SCALE and row["crest"] <= CLIPPED_CREST:
        return f"1 % of the samples exceed {row['peak'] / row['crest']:.2f} of full scale"
    return ""


# The pauses of hesitant readers, children included, are shorter than this.
DEAD_AIR_SECONDS = 4.0


def describe_silence(row: Any) -> str:
    """Where the longest silence is and how long it lasts, if it is too long, else ""."""
    silences = {
        "begins with": row["leading_silence"],
        "ends with": row["trailing_silence"],
        "is interrupted by": row["longest_pause"],
    }
    where, longest = max(silences.items(), key=lambda item: float(item[1]))
    return f"{where} {longest:.1f} s of silence" if longest >= DEAD_AIR_SECONDS else ""


# Direct current leaks into the lowest mel bins. A mean amplitude of `OFFSET` is always too much; a
# tenth of it is too much if the speech is less than 6 dB louder.
OFFSET = 0.05
OFFSET_DB = -6.0


def describe_offset(row: Any) -> str:
    """The mean amplitude and how it compares with the speech, if it is too high, else ""."""
    offset = max(abs(float(row["dc_offset"])), 1e-9)
    relative = 20 * np.log10(offset) - row["level"]
    large = OFFSET * max(1.0, float(row["peak"]))
    if offset >= large or (offset >= large / 10 and relative >= OFFSET_DB):
        mean = f"the mean of the samples is {row['dc_offset']:.3f}"
        return f"{mean}, {relative:+.0f} dB relative to the speech"
    return ""


SPEECH_CHECKS: dict[str, Callable[[Any], str]] = {  # kind of finding -> its check
    "channels": describe_channels,
    "short": describe_shortness,
    "beyond": describe_scale,
    "clipping": describe_clipping,
    "air": describe_silence,
    "offset": describe_offset,
}


# A level stands out if it differs from the median by this many robust standard deviations and by
# this many dB.
LEVEL_DEVIATIONS = 5.0
LEVEL_DB = 20.0
# Minimum number of recordings for estimating the usual level.
LEAST_LEVELS = 30


def check_levels(measurements: Measurements, recorder: Recorder) -> None:
    """Report recordings that are much quieter or louder than the others."""
    indices = np.flatnonzero(measurements.spoken)
    if len(indices) < LEAST_LEVELS:
        return
    levels = measurements.recordings["level"][indices].astype(np.float64)
    median, deviation = estimate_normal(levels)
    limit = max(LEVEL_DB, LEVEL_DEVIATIONS * deviation)
    for index, level in zip(indices.tolist(), levels.tolist(), strict=True):
        if abs(level - median) > limit:
            detail = f"speech at {level:.0f} dB, but the median of the corpus is {median:.0f} dB"
            recorder.add("level", index, detail)


# Speech itself may fall by 25 dB where its band seems to end; a filter lets it fall by more.
FILTER_DB = 30.0
# Above this correlation, what lies above 4 kHz is a mirror image of what lies below: real speech
# reaches 0.2; linear interpolation and repeated samples reach 0.99.
MIRRORED = 0.9


def limit_bands(recordings: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The upper edges (n,) of the bands in Hz; half the sample rate if nothing is cut off."""
    limits = np.where(
        recordings["band_limit_drop"] >= FILTER_DB,
        recordings["band_limit_hz"],
        recordings["sample_rate"] / 2,
    )
    mirrored = recordings["mirror_correlation"] >= MIRRORED
    return np.where(mirrored, np.minimum(limits, FOLD_HZ), limits)


# Telephone speech ends at 4,000 Hz, and the slope of a filter takes up to 300 Hz.
NARROW_HZ = 4300.0
# A band limit below the model's is reported if this share of the recordings has it.
COMMON_LIMIT = 0.05


def check_bands(measurements: Measurements, recorder: Recorder, high_hz: float) -> None:
    """Report narrow bands and, once for all splits, limits below the model's `high_hz`."""
    indices = np.flatnonzero(measurements.spoken)
    limits = limit_bands(measurements.recordings[indices])
    narrow = limits <= NARROW_HZ
    if 0 < narrow.sum() <= len(indices) / 2:  # Else the whole corpus is narrow-band.
        for place in np.flatnonzero(narrow).tolist():
            row = measurements.recordings[indices[place]]
            mirrored = row["mirror_correlation"] >= MIRRORED
            what = "only a mirror image of the lower band" if mirrored else "nothing"
            rate = f"sample rate {row['sample_rate']:,.0f} Hz"
            detail = f"{what} above {limits[place]:,.0f} Hz ({rate})"
            recorder.add("narrow", int(indices[place]), detail)
        limits = limits[~narrow]
    steps, counts = np.unique(np.floor(limits[limits < high_hz] / 250) * 250, return_counts=True)
    common = counts >= COMMON_LIMIT * len(indices)
    if not common.any():
        return
    shares = [
        f"{100 * count / len(indices):.0f} % near {step + 125:,.0f} Hz"
        for step, count in zip(steps[common], counts[common], strict=True)
    ]
    limit = f"the model's upper limit of {high_hz:,.0f} Hz"
    recorder.add_general("band", f"recordings end below {limit}: {', '.join(shares)}")
