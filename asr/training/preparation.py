"""What a run needs before its first step: the model, its normalization, and checked data."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from asr.audio.recording import Waveform
from asr.audio.waveform import load_audio
from asr.data.index import Index
from asr.data.manifest import Utterance, summarize_rejects
from asr.data.selection import select_trainable
from asr.errors import AudioError, ConfigError, DataError
from asr.evaluation import sort_longest_first
from asr.model import AcousticModel
from asr.runtime.distributed import Process, broadcast_from_rank_zero
from asr.text import normalize
from asr.training.config import Task, TrainingCallbacks
from asr.training.trainer import has_bf16, reporting_out_of_memory

NORMALIZATION_UTTERANCES = 1000  # spread over the training set, to measure mean and deviation on


def check_precision(task: Task, process: Process) -> None:
    """Raise ConfigError if the device does not compute well in the configured precision."""
    if task.training.precision == "bf16" and not has_bf16(process.device):
        raise ConfigError(
            "training.precision is bf16, which is much slower than float32 on this device; "
            "use float32 or auto"
        )


def make_model(task: Task) -> AcousticModel:
    """The model with random weights; TrainingError if it does not fit into memory."""
    with reporting_out_of_memory(
        "the model does not fit into the memory of this machine; lower encoder.hidden, "
        "encoder.layers or encoder.stack"
    ):
        return AcousticModel(task.features, task.encoder, len(task.data.vocabulary))


def check_dev_set(task: Task) -> list[Utterance]:
    """The dev set with normalized texts, longest first, so that neighbors make full batches.

    What would fail in the validation is found before the first epoch: raises DataError if the set
    is empty or a recording is missing, and TextError for a character outside the vocabulary.
    """
    utterances = [replace(u, text=normalize(u.text, "plain")) for u in task.data.dev_set]
    if not utterances:
        raise DataError(
            "the dev set contains no utterance; add some, because they decide which epoch is best"
        )
    for utterance in utterances:
        task.data.vocabulary.encode(utterance.text, utterance.id)
        if not os.path.isfile(utterance.audio):
            raise DataError(
                f"{utterance.audio}, the recording of {utterance.id} in the dev set, does not "
                "exist; correct the manifest"
            )
    return sort_longest_first(utterances)


def select_training_set(task: Task, model: AcousticModel, callbacks: TrainingCallbacks) -> Index:
    """The training utterances that a model can be trained on; reports the number of the others."""
    selected, rejects = select_trainable(
        task.data.training_set,
        task.data.vocabulary,
        model.frames,
        fastest=task.augment.fastest,
        max_seconds=task.training.batch_seconds,
        sample_rate=task.features.sample_rate,
    )
    if rejects:
        callbacks.say(summarize_rejects(rejects))
    if not selected:
        raise DataError("no training utterance is left after these rejects; correct the manifest")
    return selected


def fit_normalization(
    task: Task, model: AcousticModel, training_set: Index, process: Process
) -> None:
    """Measure the features' mean and deviation on rank 0, and send them to all processes.

    Recordings that cannot be read are left out; AudioError if none of them can.
    """
    if process.first:
        stride = -(-len(training_set) // NORMALIZATION_UTTERANCES)
        waveforms = _load_readable(training_set[::stride], task.features.sample_rate)
        model.features.fit_normalization(waveforms)
    model.features.load_state_dict(broadcast_from_rank_zero(model.features.state_dict()))


def _load_readable(utterances: Sequence[Utterance], rate: int) -> Iterator[Waveform]:
    """Yield the waveforms (N,) that can be read; the last AudioError is raised if none can."""
    problem: AudioError | None = None
    found = False
    for utterance in utterances:
        try:
            yield load_audio(utterance.audio, rate)
            found = True
        except AudioError as error:
            problem = error
    if problem and not found:
        raise problem
