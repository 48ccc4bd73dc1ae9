"""Resuming training exactly, and starting a new run from the weights of a checkpoint."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.checkpoint import Checkpoint
from asr.data.augment import Augmenter
from asr.data.index import Index, index_utterances
from asr.data.manifest import Utterance
from asr.data.planning import VERSION
from asr.errors import ConfigError
from asr.model import AcousticModel
from asr.release import RELEASED
from asr.runtime.distributed import broadcast_from_rank_zero, gather
from asr.training.config import Task

# Settings that may differ when a run is resumed, because they do not change what is trained.
RESUMABLE_CHANGES = (
    "accumulate", "bad_steps_limit", "checkpoint_steps", "keep", "unreadable_limit",
)  # fmt: skip


@dataclass
class Counters:
    """How far a run has come; its fields are the "counters" of a checkpoint."""

    epoch: int = 0  # finished epochs
    step_in_epoch: int = 0
    step: int = 0
    epoch_loss: float = 0.0  # sum over the steps of the epoch so far, weighted by their characters
    epoch_symbols: int = 0
    epoch_norm: float = 0.0  # sum of the gradient norms of the steps of the epoch so far
    epoch_steps: int = 0  # the steps of the epoch so far that were not skipped
    bad_steps: int = 0  # the latest steps in a row that were skipped
    best_wer: float = math.inf

    def finish_epoch(self) -> None:
        """Count a finished epoch and reset what is counted within an epoch."""
        self.epoch += 1
        self.step_in_epoch, self.epoch_loss, self.epoch_symbols = 0, 0.0, 0
        self.epoch_norm, self.epoch_steps = 0.0, 0


def compute_fingerprint(
    task: Task, training_set: Index, dev_set: Sequence[Utterance], augmenter: Augmenter
) -> dict[str, str]:
    """All values that a run must share with its checkpoint in order to be resumed exactly."""
    parts: dict[str, object] = {
        f"{section}.{key}": value
        for section in ("features", "encoder", "augment", "training", "decoder")
        for key, value in asdict(getattr(task, section)).items()
        if key not in RESUMABLE_CHANGES
    }
    parts["the vocabulary"] = task.data.vocabulary.to_list()
    parts["planning.version"] = VERSION
    parts["the recordings of noises and rooms"] = augmenter.digest()
    for name, index in (("training", training_set), ("dev", index_utterances(dev_set))):
        parts[f"the {name} set"] = index.digest()
    return {name: json.dumps(value) for name, value in parts.items()}


def compare_processes(fingerprint: dict[str, str]) -> None:
    """Raise ConfigError if a process has another fingerprint than rank 0."""
    first = broadcast_from_rank_zero(fingerprint)
    names = [name for name, value in fingerprint.items() if first.get(name) != value]
    for rank, others in enumerate(gather(names)):
        if others:
            raise ConfigError(
                f"process {rank} has {_describe(others[0])} than process 0; run the same command with "
                "the same manifests on all machines"
            )


def read_last(folder: Path, fingerprint: dict[str, str]) -> dict[str, Any] | None:
    """The payload of last.pt, or None if training has not started in the folder.

    Raises ConfigError if it was trained with another fingerprint.
    """
    path = folder / "last.pt"
    if not path.exists():
        best = path.with_name("best.pt")
        if best.exists():
            raise ConfigError(
                f"{best} exists without the last.pt to resume from, and would be overwritten; "
                "move it away, or train in another folder"
            )
        return None
    saved = Checkpoint.read(path)
    if saved.training is None:
        raise ConfigError(f"{path} is not a resumable checkpoint; choose another folder")
    before = saved.training["fingerprint"]
    for name, value in fingerprint.items():
        if before.get(name) != value:
            change = f" ({before.get(name)} then, {value} now)" if name.count(".") == 1 else ""
            raise ConfigError(
                f"{path} was trained with {_describe(name)}{change}; "
                f"restore it to resume, or train in another folder{_advise(name, path)}"
            )
    return saved.payload


def _describe(name: str) -> str:
    """Describe a difference in a value of the fingerprint, such as "a different training set"."""
    if not name.startswith("the "):
        return f"a different value of {name}"
    noun = name.removeprefix("the ")
    return f"different {noun}" if noun.startswith("recordings") else f"a different {noun}"


def _advise(name: str, path: Path) -> str:
    """How training with a different value can start from what was trained before, if it can."""
    if not name.startswith(("training.", "augment.", "the training set", "the dev set")):
        return ""
    return (
        f"; to train further from its weights, add folder=NEW training.start_from="
        f"{path.with_name('best.pt')}"
    )


def start_from(model: AcousticModel, task: Task) -> str:
    """Load the weights and the normalization of `training.start_from`.

    Of the head, the rows of the symbols that both vocabularies have are loaded; those of other
    symbols keep their random weights.

    Returns:
        A message that names the checkpoint and the characters that are new or dropped.

    Raises:
        ConfigError: If the checkpoint is of another architecture.
    """
    path = task.training.start_from
    path = str(RELEASED) if path == "released" else path
    checkpoint = Checkpoint.read(path)
    vocabulary = task.data.vocabulary
    differences = checkpoint.find_differences(task.features, task.encoder, vocabulary)
    before = differences.pop("vocabulary", None)
    if differences:
        raise ConfigError(
            f"{path} contains another model than the one to be trained; to start from it, add "
            f"{' '.join(f'{name}={value}' for name, value in differences.items())} to the command"
        )
    message = f"Starting from the weights of {path}."
    weights = dict(checkpoint.weights)
    if before:
        ours = vocabulary.to_list()
        rows = {symbol: row for row, symbol in enumerate(before)}
        kept = [row for row, symbol in enumerate(ours) if symbol in rows]
        for name in ("head.weight", "head.bias"):
            head = model.state_dict()[name].clone()
            head[kept] = weights[name][[rows[ours[row]] for row in kept]].to(head)
            weights[name] = head
        new = [symbol for symbol in ours if symbol not in rows]
        dropped = [symbol for symbol in before if symbol not in ours]
        message += f" Characters that are new to it: {''.join(new)!r}." if new else ""
        message += f" Characters that it loses: {''.join(dropped)!r}." if dropped else ""
    model.load_state_dict(weights)
    return message
