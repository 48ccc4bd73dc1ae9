"""The examination of a corpus: measure every utterance, run all checks, build the diagnosis.

    manifests --read_leniently--> utterances by split --examine--> Diagnosis: findings, summaries
    utterances, Diagnosis --select_clean--> the utterances that may stay

A finding is an error if training would reject the utterance or fail on it, a warning if the
utterance is likely to make the model or its measured error rates worse, and information otherwise.
"""

from collections.abc import Callable, Mapping, Sequence

from asr.data.manifest import Reject, Utterance
from asr.doctor.cost import estimate_cost
from asr.doctor.duplicates import check_duplicates, check_splits
from asr.doctor.findings import Diagnosis, Recorder
from asr.doctor.manifests import check_lines
from asr.doctor.measurements import Measurements
from asr.doctor.rates import check_rates
from asr.doctor.recordings import (
    check_bands,
    check_levels,
    check_speech,
    find_speech,
    measure_recordings,
)
from asr.doctor.requirements import Requirements
from asr.doctor.summary import summarize
from asr.doctor.texts import check_characters, check_scripts, check_trainable, measure_texts


def examine(
    splits: Mapping[str, Sequence[Utterance]],
    requirements: Requirements | None = None,
    refused: Mapping[str, Sequence[Reject]] | None = None,
    threads: int = 1,
    on_progress: Callable[[int], object] = lambda _: None,
) -> Diagnosis:
    """Find what is wrong with the utterances of each split before a model is trained on them.

    Recordings that cannot be read are findings and raise nothing.

    Args:
        splits: The utterances of each split by its name, the training set first. Ids must be
            unique within a split.
        requirements: What the model and its training demand; None for those of the recipes.
        refused: The lines of each split's manifest that cannot be used.
        threads: Number of recordings that are decoded at the same time.
        on_progress: Called with the number of further utterances that have been measured.

    Returns:
        The findings, a summary of each split, and the estimated cost of an epoch on the first.
    """
    requirements = requirements or Requirements()
    model = requirements.build_model()
    measurements, recorder = Measurements(splits), Recorder(splits)
    check_lines(refused or {}, recorder)
    measure_recordings(measurements, recorder, threads, on_progress)
    measure_texts(measurements)
    _run_checks(measurements, recorder, requirements, model.frames)
    return Diagnosis(
        recorder.build_findings(),
        [summarize(measurements, name) for name in measurements.names],
        estimate_cost(measurements, model, requirements.batch_seconds),
    )


def _run_checks(
    measurements: Measurements,
    recorder: Recorder,
    requirements: Requirements,
    frames: Callable[[int], int],
) -> None:
    """Run the checks in an order that matters: later ones depend on what earlier ones found."""
    known = frozenset(requirements.vocabulary.symbols[1:])
    check_characters(measurements, recorder, known)
    check_scripts(measurements, recorder, known)
    check_trainable(measurements, recorder, requirements, frames)
    has_speech = find_speech(measurements, recorder)
    check_speech(measurements, recorder, has_speech)
    measurements.spoken = has_speech & (measurements.characters > 0)
    check_levels(measurements, recorder)
    check_rates(measurements, recorder)
    check_splits(measurements, recorder)
    check_bands(measurements, recorder, requirements.features.high_hz)
    check_duplicates(measurements, recorder)
