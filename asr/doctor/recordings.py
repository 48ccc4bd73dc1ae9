"""Checks of the sound: silence, clipping, narrow bands, levels and channels."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.doctor.sound import FOLD_HZ, Sound, measure_sound
from asr.errors import AudioError

T = TypeVar("T")

SILENT_PEAK = 0.001  # -60 dB: what a muted microphone leaves
STEADY_DB = 6.0  # speech rises above its own pauses by 10 dB in loud noise, by 40 in a quiet room
SHORT_SECONDS = 0.3  # 7 encoder frames of 40 ms: hardly the shortest word
DEAD_AIR_SECONDS = 4.0  # readers who hesitate, children too, stay below
FLAT_PART = 1e-3  # of the active samples on flat tops: audible; unclipped recordings have 0.0002
# Lossy codecs bend flat tops, but leave all peaks as high; of 7,561 readings 3 are below, 1 at 1.29.
FULL_SCALE, CLIPPED_CREST = 0.98, 1.25
BEYOND = 2.0  # amplitude: more than a lossy codec overshoots
OFFSET, OFFSET_DB = 0.05, -6.0  # amplitude; against the speech: leaks into the lowest mel bins
NARROW_HZ = 4300.0  # half the rate of a telephone, and the width of a cliff
IMAGE = 0.9  # real speech reaches 0.2; linear interpolation, held and repeated samples 0.99
CLIFF_DB = 30.0  # speech itself may fall by 25 dB
FADING_DB = -10.0  # uncorrelated channels lose 3 dB in their mean
DIFFERENT_LIKENESS, DIFFERENT_BALANCE_DB = 0.3, 20.0  # two voices, both of them heard
LEVEL_DEVIATIONS, LEVEL_DB = 5.0, 20.0
COMMON_LIMIT = 0.05  # of the recordings, from which a band limit counts


def measure_recording(path: str) -> tuple[Sound | AudioError, float]:
    """What a recording is, or why it cannot be read; and the seconds of CPU that took."""
    began = time.thread_time()
    result: Sound | AudioError
    try:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise AudioError(f"{path} is a pipe or a device, no file; name a recording")
        result = measure_sound(path)
    except AudioError as error:
        result = error
    except Exception as error:  # one odd file must not lose hours of examination
        reason = f"{type(error).__name__}: {error}"
        result = AudioError(f"{path} cannot be measured ({reason}); export it again")
    return result, time.thread_time() - began


def map_in_order(function: Callable[[str], T], items: Iterable[str], threads: int) -> Iterator[T]:
    """The results in order, computed in threads that are never far ahead of who takes them."""
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


def limit_bands(measured: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The upper edges of bands (n,) in Hz, where there is a cliff; else half the sample rate."""
    limits = np.where(
        measured["cliff"] >= CLIFF_DB, measured["limit_hz"], measured["sample_rate"] / 2
    )
    return np.where(measured["image"] >= IMAGE, np.minimum(limits, FOLD_HZ), limits)
