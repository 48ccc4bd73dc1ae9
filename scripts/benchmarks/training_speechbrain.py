"""SpeechBrain's `Brain` against `Trainer.step`, for `training.py`."""

import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import median_ratio
from rivals import Worker, WorkerError, build_environment
from training_bench import SAME, Bench, Clock, read_augment, stack_frames

from asr.data.loading import Batch
from asr.model import AcousticModel
from asr.progress import Bar, complain
from asr.runtime.distributed import Process
from asr.training.trainer import Trainer

RIVAL = "speechbrain"
PACKAGES = ("speechbrain>=1.1,<2",)
# How SpeechBrain's LSTM reads a batch.
READINGS = ("packed", "padded")


def measure_speechbrain(bench: Bench, environments: Path) -> dict[str, Any]:
    """Our steps and SpeechBrain's on the same batches; "left_out" is the reason if it fails."""
    # nn.LSTM has no norm between its layers; the rest of the model is unchanged.
    model = bench.model(kind="bidirectional", layer_norm=False)
    with contextlib.closing(bench.load(model, read_augment("standard"))) as loader:
        batches = [next(loader) for _ in range(bench.batches)]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_inputs(folder, bench, model, batches)
        try:
            # The rival uses the torch of this environment, to compare like with like.
            lent = Path(torch.__file__).resolve().parent.parent
            python = build_environment(environments / RIVAL, PACKAGES, lent)
            script = Path(__file__).with_name("training_rival.py")
            command = [str(python), str(script), str(folder)]
            rival = Worker(command, folder / f"{RIVAL}.log", bench.threads)
            stack.callback(rival.close)
            return compare(bench, model, batches, rival)
        except WorkerError as error:
            complain(f"{RIVAL} is left out: {error}")
            return {"left_out": str(error)}


def write_inputs(
    folder: Path, bench: Bench, model: AcousticModel, batches: Sequence[Batch]
) -> None:
    """Write the settings, weights and batches of the rival."""
    config, training = model.encoder.config, bench.training
    settings = {
        "hidden": config.hidden,
        "layers": config.layers,
        "dropout": config.dropout,
        "inputs": config.stack * bench.features.mels,
        "symbols": len(bench.vocabulary),
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "threads": bench.threads,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    weights = {f"head.{key}": value for key, value in model.head.state_dict().items()}
    for index, layer in enumerate(model.encoder.layers):
        for direction, ending in ((layer.ahead, ""), (layer.back, "_reverse")):
            for key, value in direction.cell.state_dict().items():
                weights[f"{key.removesuffix('_l0')}_l{index}{ending}"] = value
    torch.save(weights, folder / "weights.pt")
    saved = []
    for batch in batches:
        x, lengths = stack_frames(batch, config.stack)
        saved.append(
            {
                "x": x,
                "lengths": lengths,
                "targets": batch.targets,
                "target_lengths": batch.target_lengths,
                "symbols": batch.symbols,
            }
        )
    torch.save(saved, folder / "batches.pt")


def compare(
    bench: Bench, model: AcousticModel, batches: Sequence[Batch], rival: Worker
) -> dict[str, Any]:
    """Check that both compute the same loss, then time their steps in turn."""
    trainer = Trainer(model, bench.training, Process(0, 1, torch.device("cpu")))
    model.eval()
    with torch.no_grad():
        loss = float(trainer.losses(batches[0]).sum())
    model.train()
    theirs = rival.hello["losses"]["packed"]
    if not math.isclose(loss, theirs, rel_tol=SAME):
        raise WorkerError(f"its loss is {theirs} and ours is {loss}; they do not compute the same")
    cpu: dict[str, list[float]] = {name: [] for name in ("ours", *READINGS)}
    wall: dict[str, list[float]] = {name: [] for name in cpu}
    with Bar("SpeechBrain", bench.rounds + 1, "rounds") as bar:
        for turn in range(bench.rounds + 1):  # the first round warms up
            for name in reversed(cpu) if turn % 2 else cpu:
                if name == "ours":
                    spent = time_ours(trainer, batches, turn)
                else:
                    spent = rival.ask({"reading": name, "batches": list(range(len(batches)))})
                if turn:
                    cpu[name].append(spent["cpu_seconds"])
                    wall[name].append(spent["wall_seconds"])
            bar.advance()
    losses = {"ours": loss, **rival.hello["losses"]}
    figures: dict[str, Any] = {
        name: {
            "steps_per_cpu_second": len(batches) / median(cpu[name]),
            "steps_per_second": len(batches) / median(wall[name]),
            "times_ours": median_ratio(cpu[name], cpu["ours"]),
            "of_rounds": [a / b for a, b in zip(cpu[name], cpu["ours"], strict=True)],
            "first_loss": losses[name],
        }
        for name in cpu
    }
    padding = 1 - sum(int(b.feature_lengths.sum()) for b in batches) / sum(
        b.features.shape[0] * b.features.shape[1] for b in batches
    )
    return {"versions": rival.hello["versions"], "padding": padding, **figures}


def time_ours(trainer: Trainer, batches: Sequence[Batch], turn: int) -> dict[str, float]:
    """The CPU and wall-clock seconds of our steps on all batches."""
    clock = Clock()
    with clock:
        for number, batch in enumerate(batches):
            trainer.step(batch, turn * len(batches) + number, 0.0)
    return {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
