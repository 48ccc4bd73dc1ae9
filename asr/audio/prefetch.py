"""Reads recordings in threads, ahead of the model that consumes them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt

from asr.audio.containers import AudioSource
from asr.audio.waveform import Condition, read_blocks
from asr.errors import AsrError

Waveform = npt.NDArray[np.float32]  # (N,)
Source = AudioSource | tuple[AudioSource, float]
"""A recording, or a recording and the seconds that it must last (within 50 ms)."""
Loaded = tuple[float, Waveform | Iterator[Waveform] | AsrError]
"""The seconds of a recording, and its waveform (N,), its blocks (n,) or its error."""

_READERS = 2  # threads that read recordings while the model computes
_AHEAD = 4  # recordings that are read before they are needed


def read_ahead(
    sources: Iterable[Source],
    sample_rate: int,
    is_long: Callable[[int], bool],
    conditions: MutableMapping[int, Condition],
) -> Iterator[Loaded]:
    """Yield the seconds and the waveform (N,) of each recording, or its error, in their order.

    Args:
        sources: The recordings, which are consumed lazily.
        sample_rate: Hertz of the waveforms.
        is_long: Whether a recording of so many samples or more is to come as an iterator of blocks
            (n,) instead.
        conditions: Receives that of each recording, by its index, once it has been read to its end.
    """
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="audio")
    pending: deque[Future[Loaded]] = deque()
    try:
        for index, source in enumerate(sources):
            on_end = partial(conditions.__setitem__, index)
            pending.append(pool.submit(_load, source, sample_rate, is_long, on_end))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _load(
    source: Source,
    sample_rate: int,
    is_long: Callable[[int], bool],
    on_end: Callable[[Condition], object],
) -> Loaded:
    # If the length is known beforehand, the recording counts with it in its batch, so that one
    # that cannot be read leaves the other batches unchanged.
    source, expected = source if isinstance(source, tuple) else (source, None)
    blocks = read_blocks(
        source,
        sample_rate,
        expected_seconds=expected,
        on_end=on_end,
        keep_damaged=expected is None,
    )
    begin: list[Waveform] = []
    samples = 0
    try:
        for block in blocks:
            begin.append(block)
            samples += len(block)
            if is_long(samples):
                return expected or samples / sample_rate, chain(begin, blocks)
    except AsrError as error:
        return expected or 0.0, error
    return expected or samples / sample_rate, np.concatenate(begin)
