"""The rival of `training.py`: SpeechBrain's `Brain` on the same model and batches.

    python training_rival.py FOLDER

This module runs in the rival's environment, so it imports only torch and SpeechBrain, never `asr`.
FOLDER holds the input of both: settings.json, batches.pt and weights.pt, the initial weights. A line
on standard input is a request, an object of "reading" ("packed" or "padded") and "batches", their
numbers; the answer is a JSON line of the CPU and wall-clock seconds that `Brain.fit_batch` took. The
first line reports the versions and each reading's loss of the first batch before any step, without
dropout.

- padded: SpeechBrain's LSTM without lengths, as its `Sequential` and therefore its CRDNN call it. The
  backward direction of a shorter utterance begins in the padding, which is not the same mathematics.
- packed: the same with lengths, SpeechBrain's way to skip padding.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.nnet.activations import Softmax
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.RNN import LSTM
from torch import Tensor

READINGS = ("packed", "padded")
Batch = dict[str, Any]


class CtcBrain(sb.Brain):
    """Stacked frames (B, T', F) -> LSTM -> linear -> CTC."""

    packs = True

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> Tensor:  # noqa: ARG002
        """Log-probabilities (B, T', V) of a batch."""
        lengths = batch["relative_lengths"] if self.packs else None
        x, _ = self.modules.lstm(batch["x"], lengths=lengths)  # (B, T', 2 · H)
        return self.modules.softmax(self.modules.head(x))  # (B, T', V)

    def compute_objectives(self, predictions: Tensor, batch: Batch, stage: sb.Stage) -> Tensor:  # noqa: ARG002
        """The CTC loss of a batch."""
        loss = ctc_loss(
            predictions,
            batch["targets"],
            batch["relative_lengths"],
            batch["relative_target_lengths"],
            blank_index=0,
            reduction="sum",
        )
        return loss / batch["symbols"]


def main(folder: Path) -> None:
    """Report versions and losses, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keeps SpeechBrain's own output out of the answers
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    batches = [prepare(batch) for batch in torch.load(folder / "batches.pt")]
    weights = torch.load(folder / "weights.pt")
    brains = {reading: make_brain(settings, weights, reading) for reading in READINGS}
    hello = {
        "versions": {name: version(name) for name in ("speechbrain", "torch")},
        "losses": {reading: first_loss(brain, batches[0]) for reading, brain in brains.items()},
    }
    print(json.dumps(hello), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        brain = brains[request["reading"]]
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        for number in request["batches"]:
            brain.step += 1
            brain.fit_batch(batches[number])
        answer = {
            "cpu_seconds": time.process_time() - cpu_start,
            "wall_seconds": time.perf_counter() - wall_start,
        }
        print(json.dumps(answer), file=answers)


def prepare(batch: Batch) -> Batch:
    """Add lengths in SpeechBrain's form, as fractions of the longest utterance."""
    # SpeechBrain multiplies again and then rounds in one place and truncates in another; adding a
    # quarter gives the exact length in both.
    lengths = (batch["lengths"] + 0.25) / batch["x"].shape[1]
    target_lengths = (batch["target_lengths"] + 0.25) / batch["targets"].shape[1]
    return {**batch, "relative_lengths": lengths, "relative_target_lengths": target_lengths}


def make_brain(settings: dict[str, Any], weights: dict[str, Tensor], reading: str) -> CtcBrain:
    """A brain with initial `weights`, and SpeechBrain's defaults for all other settings."""
    lstm = LSTM(
        hidden_size=settings["hidden"],
        input_size=settings["inputs"],
        num_layers=settings["layers"],
        dropout=settings["dropout"],
        bidirectional=True,
    )
    head = Linear(n_neurons=settings["symbols"], input_size=2 * settings["hidden"])
    modules = {"lstm": lstm, "head": head, "softmax": Softmax(apply_log=True)}
    brain = CtcBrain(
        modules,
        # Fused like ours, because torch's default takes four times as long on a CPU.
        lambda parameters: torch.optim.AdamW(
            parameters,
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            fused=True,
        ),
        run_opts={"device": "cpu", "max_grad_norm": settings["clip_norm"]},
    )
    brain.packs = reading == "packed"
    lstm.rnn.load_state_dict({k: w for k, w in weights.items() if not k.startswith("head.")})
    head.w.load_state_dict(
        {k.removeprefix("head."): w for k, w in weights.items() if k.startswith("head.")}
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


@torch.no_grad()
def first_loss(brain: CtcBrain, batch: Batch) -> float:
    """The loss of a batch without dropout."""
    brain.modules.eval()
    predictions = brain.compute_forward(batch, sb.Stage.TRAIN)
    loss = float(brain.compute_objectives(predictions, batch, sb.Stage.TRAIN))
    brain.modules.train()
    return loss


if __name__ == "__main__":
    main(Path(sys.argv[1]))
