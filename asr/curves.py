"""A run's metrics: a JSONL file that can be rewound, TensorBoard, and a picture of the curves."""

import json
import os
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError


class Metrics:
    """Writes one JSON object per line to `folder/metrics.jsonl`, and its numbers to TensorBoard.

    `resume_at` is the size in bytes that the file had at the checkpoint (`position`): what was
    written after it belongs to work that is done again, and is cut off.
    """

    def __init__(self, folder: Path, resume_at: int = 0, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("ab")
        if self._file.tell() < resume_at:
            raise CheckpointError(
                f"{folder / 'metrics.jsonl'} is shorter than it was at the last checkpoint; put the "
                "file back, or train in another folder."
            )
        self._file.truncate(resume_at)
        self._file.seek(0, os.SEEK_END)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add a line of this kind ("step" or "epoch") for the training step `step`."""
        line = json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        for name, value in values.items():
            if isinstance(value, int | float) and name != "epoch":
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def position(self) -> int:
        """The file's size, once everything written so far is on the disk."""
        self._board.flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `folder/metrics.jsonl`, oldest first."""
    with (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def draw_curves(folder: Path) -> Path:
    """Draw loss, error rates, learning rate and gradient norm of a run into `folder/curves.png`."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    loss, errors, rate, norm = axes.flat

    x = [row["step"] for row in steps]
    loss.plot(x, [row["loss"] for row in steps], color="0.8", linewidth=0.7, label="training, step")
    ends = [row["step"] for row in epochs]
    loss.plot(ends, [row["train_loss"] for row in epochs], "o-", ms=3, label="training, epoch")
    loss.plot(ends, [row["dev_loss"] for row in epochs], "o-", ms=3, label="dev")
    loss.set(title="CTC loss per character", yscale="log")
    loss.legend()

    errors.plot(ends, [100 * row["wer"] for row in epochs], "o-", ms=3, label="WER")
    errors.plot(ends, [100 * row["cer"] for row in epochs], "o-", ms=3, label="CER")
    if epochs:
        best = min(epochs, key=lambda row: row["wer"])
        errors.plot(best["step"], 100 * best["wer"], "k*", ms=10)
        errors.annotate(
            f"best {100 * best['wer']:.1f} %",
            (best["step"], 100 * best["wer"]),
            textcoords="offset points",
            xytext=(-4, 10),
            ha="right",
        )
    errors.set(title="dev errors in %", ylim=(0, None))
    errors.legend()

    rate.plot(x, [row["learning_rate"] for row in steps])
    rate.set(title="learning rate", ylim=(0, None), xlabel="step")
    norm.plot(x, [row["gradient_norm"] for row in steps], linewidth=0.7)
    norm.set(title="gradient norm before clipping", yscale="log", xlabel="step")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(folder.name)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path
