"""Checks of the sound: silence, clipping, channels, levels and narrow bands."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.audio.recording import TOLERANCE_SECONDS
from asr.doctor.findings import ERROR
from asr.doctor.measurements import Examination, estimate_normal
from asr.doctor.sound import FOLD_HZ, Sound, measure_sound
from asr.errors import AudioError


def check_recordings(
    examination: Examination, threads: int, on_progress: Callable[[int], object]
) -> None:
    """Measure every recording and report what is wrong with it by itself; find those with speech.

    The texts must have been measured before.
    """
    paths = (utterance.audio for utterance in examination.utterances)
    for index, (sound, cpu_seconds) in enumerate(_measure_in_order(paths, threads)):
        examination.reading_seconds += cpu_seconds
        if isinstance(sound, AudioError):
            examination.add("audio", index, str(sound), ERROR)
        else:
            stated = examination.utterances[index].seconds
            if abs(sound.seconds - stated) > TOLERANCE_SECONDS:
                detail = f"lasts {sound.seconds:.2f} s, but the manifest says {stated:.2f} s"
                examination.add("duration", index, detail, ERROR)
            examination.recordings[index] = sound
            defects = dict(find_defects(examination.recordings[index]))
            for kind, detail in defects.items():
                examination.add(kind, index, detail)
            has_speech = not SPEECHLESS & defects.keys()
            examination.spoken[index] = has_speech and examination.characters[index] > 0
        on_progress(1)


Measured = tuple[Sound | AudioError, float]  # what was found, and the CPU seconds that this took


def _measure_in_order(paths: Iterable[str], threads: int) -> Iterator[Measured]:
    """Yield the results in order, computed by threads that stay close ahead of the caller."""
    running: deque[Future[Measured]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for path in paths:
                running.append(pool.submit(_measure, path))
                if len(running) == 2 * threads:
                    yield running.popleft().result()
            yield from (future.result() for future in running)
        finally:
            pool.shutdown(cancel_futures=True)


def _measure(path: str) -> Measured:
    """A recording's measurements, or why it cannot be read; and the CPU seconds that this took."""
    began = time.thread_time()
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise AudioError(f"{path} is a pipe or a device, not a file; specify a recording")
        result: Sound | AudioError = measure_sound(path)
    except AudioError as error:
        result = error
    except Exception as error:  # A single odd file must not end an examination that takes hours.
        reason = f"{type(error).__name__}: {error}"
        result = AudioError(f"{path} cannot be measured ({reason}); export it again")
    return result, time.thread_time() - began


# Channels whose mean is weaker than the channels by this many dB cancel each other out. Channels
# with unrelated sounds lose 3 dB.
CANCELING_DB = -10.0
# A peak of -60 dB of full scale is what a muted microphone leaves.
SILENT_PEAK = 0.001
# Speech rises above its own pauses by 10 dB in loud noise, and by 40 dB in a quiet room.
STEADY_DB = 6.0


# Kinds of findings that mean a recording has no speech; it is then checked for nothing else.
SPEECHLESS = {"phase", "silence", "steady"}


def find_defects(row: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the detail of each defect that the numbers of one recording show."""
    if row["downmix_gain"] <= CANCELING_DB:
        yield "phase", f"mixing the channels to mono loses {-row['downmix_gain']:.0f} dB"
    elif row["peak"] < SILENT_PEAK:
        yield "silence", f"no sample exceeds {row['peak']:.5f} of full scale"
    elif row["dynamic_range"] < STEADY_DB:
        yield "steady", f"the level varies by only {row['dynamic_range']:.1f} dB"
    else:
        yield from _find_defects_of_speech(row)


# Two channels contain different voices if their correlation is below the first number, and neither
# is quieter than the other by as many dB as the second.
UNRELATED_CORRELATION = 0.3
AUDIBLE_BALANCE_DB = 20.0
# This is 7 encoder frames of 40 ms, hardly enough for the shortest word.
SHORT_SECONDS = 0.3
# Lossy codecs overshoot full scale, but not by a factor of two.
HIGHEST_PEAK = 2.0
# Clipping is audible when a thousandth of the active samples lie on flat tops; at most 0.0002 of
# them do in recordings without clipping.
CLIPPED_SHARE = 1e-3
# Lossy codecs bend the flat tops but leave all peaks equally high, which lowers the crest. Among
# 7,561 recordings of read speech, 3 have less than this; one has 1.29 and is loud but not clipped.
FULL_SCALE = 0.98
CLIPPED_CREST = 1.25
# The pauses of hesitant readers, children included, are shorter than this.
DEAD_AIR_SECONDS = 4.0
# Direct current leaks into the lowest mel bins. A mean amplitude of `OFFSET` is always too much; a
# tenth of it is too much if the speech is less than 6 dB louder.
OFFSET = 0.05
OFFSET_DB = -6.0


def _find_defects_of_speech(row: Any) -> Iterator[tuple[str, str]]:
    peak, correlation = row["peak"], row["channel_correlation"]
    if correlation < UNRELATED_CORRELATION and row["channel_balance"] < AUDIBLE_BALANCE_DB:
        yield "channels", f"the correlation of the channels is {correlation:.2f}"
    if row["seconds"] < SHORT_SECONDS:
        yield "short", f"lasts {row['seconds']:.2f} s"
    if peak >= HIGHEST_PEAK:
        yield "beyond", f"the samples reach {peak:.4g}, although full scale is 1"
    elif row["clipped_share"] >= CLIPPED_SHARE:
        share = f"{100 * row['clipped_share']:.1f} % of the speech samples"
        yield "clipping", f"{share} lie on flat tops at {peak:.2f} of full scale"
    elif peak >= FULL_SCALE and row["crest"] <= CLIPPED_CREST:
        yield "clipping", f"1 % of the samples exceed {peak / row['crest']:.2f} of full scale"
    silences = {
        "begins with": row["leading_silence"],
        "ends with": row["trailing_silence"],
        "is interrupted by": row["longest_pause"],
    }
    where, longest = max(silences.items(), key=lambda item: float(item[1]))
    if longest >= DEAD_AIR_SECONDS:
        yield "air", f"{where} {longest:.1f} s of silence"
    offset = max(abs(float(row["dc_offset"])), 1e-9)
    relative = 20 * np.log10(offset) - row["level"]
    large = OFFSET * max(1.0, float(peak))
    if offset >= large or (offset >= large / 10 and relative >= OFFSET_DB):
        mean = f"the mean of the samples is {row['dc_offset']:.3f}"
        yield "offset", f"{mean}, {relative:+.0f} dB relative to the speech"


# A level stands out if it differs from the median by this many robust standard deviations and by
# this many dB.
LEVEL_DEVIATIONS = 5.0
LEVEL_DB = 20.0
# Minimum number of recordings for estimating the usual level.
LEAST_LEVELS = 30


def check_levels(examination: Examination) -> None:
    """Report recordings that are much quieter or louder than the others."""
    indices = np.flatnonzero(examination.spoken)
    if len(indices) < LEAST_LEVELS:
        return
    levels = examination.recordings["level"][indices].astype(np.float64)
    median, deviation = estimate_normal(levels)
    limit = max(LEVEL_DB, LEVEL_DEVIATIONS * deviation)
    for index, level in zip(indices.tolist(), levels.tolist(), strict=True):
        if abs(level - median) > limit:
            detail = f"speech at {level:.0f} dB, but the median of the corpus is {median:.0f} dB"
            examination.add("level", index, detail)


# Speech itself may fall by 25 dB where its band seems to end; a filter lets it fall by more.
FILTER_DB = 30.0
# Above this correlation, what lies above 4 kHz is a mirror image of what lies below: real speech
# reaches 0.2; linear interpolation and repeated samples reach 0.99.
MIRRORED = 0.9


def limit_bands(recordings: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The upper edges (n,) of the bands in Hz; half the sample rate if nothing is cut off."""
    filtered = recordings["band_limit_drop"] >= FILTER_DB
    limits = np.where(filtered, recordings["band_limit_hz"], recordings["sample_rate"] / 2)
    mirrored = recordings["mirror_correlation"] >= MIRRORED
    return np.where(mirrored, np.minimum(limits, FOLD_HZ), limits)


# Telephone speech ends at 4,000 Hz, and the slope of a filter takes up to 300 Hz.
NARROW_HZ = 4300.0
# A band limit below the model's is reported if this share of the recordings has it.
COMMON_LIMIT = 0.05


def check_bands(examination: Examination, high_hz: float) -> None:
    """Report narrow bands and, once for all splits, limits below the model's `high_hz`."""
    indices = np.flatnonzero(examination.spoken)
    limits = limit_bands(examination.recordings[indices])
    narrow = limits <= NARROW_HZ
    if 0 < narrow.sum() <= len(indices) / 2:  # Else the whole corpus is narrow-band.
        for place in np.flatnonzero(narrow).tolist():
            row = examination.recordings[indices[place]]
            mirrored = row["mirror_correlation"] >= MIRRORED
            what = "only a mirror image of the lower band" if mirrored else "nothing"
            rate = f"sample rate {row['sample_rate']:,.0f} Hz"
            detail = f"{what} above {limits[place]:,.0f} Hz ({rate})"
            examination.add("narrow", int(indices[place]), detail)
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
    examination.add_general("band", f"recordings end below {limit}: {', '.join(shares)}")
