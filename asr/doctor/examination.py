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
from asr.doctor.findings import Diagnosis
from asr.doctor.measurements import Examination
from asr.doctor.rates import check_rates
from asr.doctor.recordings import check_bands, check_levels, check_recordings
from asr.doctor.requirements import Requirements
from asr.doctor.summary import summarize
from asr.doctor.texts import check_scripts, check_texts, check_trainable


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
    examination = Examination(splits)
    for split, rejects in (refused or {}).items():
        for reject in rejects:
            examination.add_line(split, reject.id, reject.detail)
    # The order matters: later checks depend on what earlier ones found.
    check_texts(examination, requirements.known)
    check_recordings(examination, threads, on_progress)
    check_scripts(examination, requirements.known)
    check_trainable(examination, requirements, model.frames)
    check_levels(examination)
    check_rates(examination)
    check_splits(examination)
    check_bands(examination, requirements.features.high_hz)
    check_duplicates(examination)
    return Diagnosis(
        examination.build_findings(),
        [summarize(examination, name) for name in examination.names],
        estimate_cost(examination, model, requirements.batch_seconds),
    )
