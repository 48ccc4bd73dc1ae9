"""Evaluation: a recognizer and utterances in; texts, errors and a `Report` out.

    evaluation = evaluate(recognizer, read_manifest("dev.jsonl"))
    print(evaluation.report.summary())

Utterances are processed from the longest to the shortest, so that those in a batch are about equally
long. Shapes: T' encoder frames, V symbols.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from asr.audio.prefetch import Source
from asr.data.manifest import Utterance
from asr.decoder.config import Decoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError
from asr.model import group_by_seconds
from asr.recognizer import BATCH_SECONDS, OperatingPoint, Recognizer
from asr.scoring import Report, score
from asr.stream import Segment

T = TypeVar("T")
OnProgress = Callable[[int], object]
"""Called with the number of utterances that were just finished."""


@dataclass(frozen=True)
class Evaluation:
    """The error rates and hypotheses of a recognizer on a set of utterances.

    Attributes:
        report: The error rates; all words of an utterance with an error count as deleted.
        hypotheses: By utterance id, in the order of the utterances.
        errors: The error of each recording that could not be transcribed, by utterance id.

    Example:
        >>> utterance = Utterance("u1", "u1.wav", 1.5, "hello world")
        >>> score_hypotheses([utterance], hypotheses={}, errors={}).report.wer
        1.0
    """

    report: Report
    hypotheses: dict[str, Hypothesis]
    errors: dict[str, AsrError]


def evaluate(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    profile: str = "plain",
    operating_point: OperatingPoint | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Transcribe utterances and measure the errors.

    Args:
        recognizer: The recognizer to evaluate.
        utterances: The recordings and their reference texts, with unique ids.
        profile: How both sides are normalized before they are compared; see `asr.text.PROFILES`.
        operating_point: How the recordings are read; None for the default one.
        on_progress: Called with the number of utterances that were just finished.

    Returns:
        The report, the hypotheses, and the errors of recordings that cannot be read.

    Raises:
        ConfigError: If the model cannot work at this operating point.
        ScoreError: If there are no utterances.

    Example:
        >>> utterance = Utterance("sample", "docs/sample.flac", 4.37, "the old man opened the door")
        >>> evaluate(Recognizer.default(), [utterance]).hypotheses["sample"].text
        'the old man opened the door and looked out into the rain'
    """
    errors: dict[str, AsrError] = {}
    found = compute_hypotheses(recognizer, utterances, operating_point, errors, on_progress)
    hypotheses = {utterance.id: hypothesis for utterance, hypothesis in found}
    return score_hypotheses(utterances, hypotheses, errors, profile)


def score_hypotheses(
    utterances: Sequence[Utterance],
    hypotheses: Mapping[str, Hypothesis],
    errors: Mapping[str, AsrError],
    profile: str = "plain",
) -> Evaluation:
    """Compare hypotheses with the reference texts; an utterance without one counts as empty."""
    ids = [utterance.id for utterance in utterances]
    texts = {name: hypotheses[name].text if name in hypotheses else "" for name in ids}
    report = score({utterance.id: utterance.text for utterance in utterances}, texts, profile)
    ordered_hypotheses = {name: hypotheses[name] for name in ids if name in hypotheses}
    ordered_errors = {name: errors[name] for name in ids if name in errors}
    return Evaluation(report, ordered_hypotheses, ordered_errors)


def compute_hypotheses(
    recognizer: Recognizer,
    utterances: Iterable[Utterance],
    operating_point: OperatingPoint | None = None,
    errors: dict[str, AsrError] | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[tuple[Utterance, Hypothesis]]:
    """Yield each utterance with its hypothesis, the longest first.

    Args:
        recognizer: The recognizer to run.
        utterances: The recordings, of which each must last as long as its utterance says.
        operating_point: How the recordings are read; None for the default one.
        errors: Receives the error of each recording that cannot be read, by utterance id; it is
            then skipped. None: the first error is raised.
        on_progress: Called with the number of utterances that the caller has just finished.
    """
    ordered = sort_longest_first(utterances)
    results = recognizer.transcribe_many(to_sources(ordered), operating_point=operating_point)
    return _name_each(ordered, results, errors, on_progress)


def compute_emissions(
    recognizer: Recognizer,
    utterances: Iterable[Utterance],
    operating_point: OperatingPoint | None = None,
    errors: dict[str, AsrError] | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[tuple[Utterance, list[Segment]]]:
    """Yield each utterance with its segments of log-probs (T', V), the longest first.

    The arguments are those of `compute_hypotheses`. Results are computed lazily, so the caller may
    stop at any time.
    """
    ordered = sort_longest_first(utterances)
    results = recognizer.emissions(to_sources(ordered), operating_point=operating_point)
    return _name_each(ordered, results, errors, on_progress)


def decode_emissions(
    recognizer: Recognizer,
    emissions: Mapping[str, list[Segment]],
    decoder: Decoder | None = None,
    threads: int = 1,
) -> dict[str, Hypothesis]:
    """Decode segments of log-probs (T', V) by utterance id, by another decoder if given."""
    decode = partial(recognizer.decode, decoder=decoder)
    with ThreadPoolExecutor(threads, thread_name_prefix="decoding") as pool:
        return dict(zip(emissions, pool.map(decode, emissions.values()), strict=True))


def sort_longest_first(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Return the utterances sorted by decreasing length; the sort is stable."""
    return sorted(utterances, key=lambda utterance: -utterance.seconds)


def to_sources(utterances: Iterable[Utterance]) -> Iterator[Source]:
    """Yield each recording with its expected seconds, as the recognizer takes them."""
    return ((utterance.audio, utterance.seconds) for utterance in utterances)


def group_batches(utterances: Iterable[Utterance]) -> list[list[Utterance]]:
    """The batches in which a recognizer transcribes the utterances, for `take_share`."""
    items = ((utterance.seconds, utterance) for utterance in sort_longest_first(utterances))
    return list(group_by_seconds(items, BATCH_SECONDS))


def take_share(
    batches: Sequence[Sequence[Utterance]], rank: int, processes: int
) -> list[Utterance]:
    """The utterances that process `rank` of `processes` transcribes.

    Batches stay whole, so the texts are the same for any number of processes.
    """
    first = len(batches) * rank // processes
    last = len(batches) * (rank + 1) // processes
    return [utterance for batch in batches[first:last] for utterance in batch]


def _name_each(
    utterances: Sequence[Utterance],
    results: Iterable[tuple[int, T | AsrError]],
    errors: dict[str, AsrError] | None,
    on_progress: OnProgress | None,
) -> Iterator[tuple[Utterance, T]]:
    """Yield each utterance with its result; collect or raise errors."""
    for index, result in results:
        utterance = utterances[index]
        if not isinstance(result, AsrError):
            yield utterance, result
        elif errors is not None:
            errors[utterance.id] = result
        else:
            raise result
        if on_progress:
            on_progress(1)
