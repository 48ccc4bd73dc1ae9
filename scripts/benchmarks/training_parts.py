"""The loader alone, a whole training, and one process against two, for `training.py`."""

import contextlib
import copy
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import training_bench
from harness import median_ratio
from torch import Tensor
from training_bare import LstmsAlone
from training_bench import WORKERS, Bench, Clock, cpu_of_descendants, read_augment

import asr.training.run
from asr.data.loading import Batch
from asr.data.manifest import Utterance
from asr.encoder import Context
from asr.progress import Bar
from asr.runtime.distributed import Process, RuntimeConfig, gather, launch, process_group
from asr.training.config import Task, TrainingCallbacks, TrainingData
from asr.training.trainer import Trainer

# The loader alone loads this many times as much audio in a round.
DATA_FACTOR = 10


def measure_data(bench: Bench) -> list[dict[str, Any]]:
    """Hours of audio per hour of the loader, for each number of workers and each augmentation."""
    model = bench.model()
    # (augmentation, number of workers)
    settings = [(name, workers) for name in ("none", "standard") for workers in (1, 2)]
    count = max(2 * WORKERS, DATA_FACTOR * bench.batches)
    cpu: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    wall: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    with contextlib.ExitStack() as stack:
        loaders = {}
        for name, workers in settings:
            loader = bench.load(model, read_augment(name), workers)
            loaders[name, workers] = stack.enter_context(contextlib.closing(loader))
            next(loader)  # waits until the workers have started
        bar = stack.enter_context(Bar("Data", len(settings) * (bench.rounds + 1), "turns"))
        for turn in range(bench.rounds + 1):  # the first round warms up
            for setting in settings[::-1] if turn % 2 else settings:
                loader = loaders[setting]
                training_bench.settle()
                before, clock = cpu_of_descendants(), Clock()
                # Two batches per worker, torch's default, were loaded ahead during other turns.
                ahead = [name for _ in range(2 * setting[1]) for name in next(loader).ids]
                timed: list[str] = []
                with clock:
                    for _ in range(count):
                        timed += next(loader).ids
                training_bench.settle()
                spent = clock.cpu + cpu_of_descendants() - before
                if turn:
                    seconds = bench.audio(timed)
                    wall[setting].append(seconds / clock.wall)
                    cpu[setting].append((seconds + bench.audio(ahead)) / spent)
                bar.advance(note=f"{setting[0]}, {setting[1]} worker(s)")
    return [
        {
            "augment": name,
            "workers": workers,
            "hours_per_cpu_hour": median(cpu[name, workers]),
            "hours_per_hour": median(wall[name, workers]),
            "times_one_worker": median_ratio(wall[name, workers], wall[name, 1]),
        }
        for name, workers in settings
    ]


class Finished(Exception):  # noqa: N818  # this is not an error
    """Ends the training after its last measured epoch."""


@dataclass
class Watch(TrainingCallbacks):
    """Measures each epoch of a training and, after it, the LSTMs alone on its batches."""

    bench: Bench
    bar: Bar
    shapes: list[tuple[int, int, Context | None, list[str]]] = field(default_factory=list)
    alone: LstmsAlone | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)

    def epoch_begins(self, epoch: int, *_: int) -> None:
        if epoch > 1:
            self._close()
            self.bar.advance()
            if len(self.epochs) == self.bench.rounds + 1:
                raise Finished
        training_bench.settle()
        self._workers = cpu_of_descendants()
        self._steps = Clock()
        self._steps.__enter__()

    def epoch_ends(self) -> None:
        self._steps.__exit__()
        self._end = Clock()
        self._end.__enter__()

    def _close(self) -> None:
        """Record the epoch that has ended."""
        self._end.__exit__()
        training_bench.settle()
        workers = cpu_of_descendants() - self._workers
        assert self.alone is not None
        clock = Clock()
        for rows, frames, context, _ in self.shapes:
            work = self.alone.prepare(rows, frames, context)
            with clock:
                self.alone.run(work)
        names = [name for *_, names in self.shapes for name in names]
        self.epochs.append(
            {
                "audio": self.bench.audio(names),
                "steps": len(self.shapes),
                "cpu": self._steps.cpu + workers,
                "wall": self._steps.wall,
                "lstms": clock.cpu,
                "end": self._end.cpu,
            }
        )
        self.shapes.clear()


def watch_trainer(watch: Watch) -> type[Trainer]:
    """A Trainer that reports the shape and the context of each step to `watch`."""

    class Watched(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            watch.alone = LstmsAlone(self.model.encoder)
            self._draw = self.model.encoder.draw_context
            self.model.encoder.draw_context = self._note

        def _note(self, generator: torch.Generator) -> Context | None:
            self._context = self._draw(generator)
            return self._context

        def step(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Tensor]:
            found = super().step(batch, step, progress)
            frames = self.model.encoder.frames(batch.features.shape[1])
            watch.shapes.append((len(batch.ids), frames, self._context, batch.ids))
            return found

    return Watched


def measure_training(bench: Bench) -> dict[str, Any]:
    """Run `train` with epochs of about `bench.seconds` of audio, one epoch per round."""
    chosen: list[Utterance] = []
    for utterance in bench.utterances:
        if chosen and sum(u.seconds for u in chosen) >= bench.seconds:
            break
        chosen.append(utterance)
    dev = chosen[: max(1, len(chosen) // 10)]
    with Bar("Training", bench.rounds + 1, "epochs") as bar, tempfile.TemporaryDirectory() as name:
        watch = Watch(bench, bar)
        task = Task(
            folder=Path(name),
            data=TrainingData(chosen, dev, bench.vocabulary),
            features=bench.features,
            encoder=bench.encoder,
            augment=read_augment("standard"),
            training=replace(bench.training, epochs=bench.rounds + 2),
            runtime=RuntimeConfig("cpu", 1, bench.threads, WORKERS),
            callbacks=watch,
        )
        asr.training.run.Trainer, before = watch_trainer(watch), asr.training.run.Trainer
        try:
            asr.training.run.train(task)
        except Finished:
            pass
        finally:
            asr.training.run.Trainer = before
    epochs = watch.epochs[1:]  # the first epoch warms up
    columns = {key: [epoch[key] for epoch in epochs] for key in epochs[0]}
    return {
        "hours_per_cpu_hour": median_ratio(columns["audio"], columns["cpu"]),
        "hours_per_hour": median_ratio(columns["audio"], columns["wall"]),
        "lstms_hours_per_cpu_hour": median_ratio(columns["audio"], columns["lstms"]),
        "to_lstms": median_ratio(columns["cpu"], columns["lstms"]),
        "end_cpu_seconds": median(columns["end"]),
        "end_dev_seconds": sum(u.seconds for u in dev),
        "epochs": epochs,
    }


def measure_processes(bench: Bench) -> dict[str, Any]:
    """Train on the same global batches in one process and in two, in turn."""
    rounds: list[dict[str, float]] = launch(run_both, bench, 2)[1:]  # the first round warms up
    columns = {key: [turn[key] for turn in rounds] for key in rounds[0]}
    return {
        "cpu_of_two_to_one": median_ratio(columns["two_cpu"], columns["one_cpu"]),
        "speedup": median_ratio(columns["one_wall"], columns["two_wall"]),
        "hours_per_hour_one": median_ratio(columns["audio"], columns["one_wall"]),
        "hours_per_hour_two": median_ratio(columns["audio"], columns["two_wall"]),
        "cores_of_one": median_ratio(columns["one_cpu"], columns["one_wall"]),
        "cores_of_two": median_ratio(columns["two_cpu"], columns["two_wall"]),
        "rounds": rounds,
    }


def run_both(bench: Bench) -> list[dict[str, float]]:
    """Run in two processes: time a round's batches in the first alone, then in both."""
    with process_group(RuntimeConfig("cpu", 2, bench.threads, 0)) as place:
        model = bench.model()
        augment = read_augment("standard")
        count = bench.batches
        with contextlib.closing(bench.load(model, augment)) as loader:
            whole = [next(loader) for _ in range(count)]
        with contextlib.closing(bench.load(model, augment, 0, place.rank, 2)) as loader:
            parts = [next(loader) for _ in range(count)]
        alone = Trainer(copy.deepcopy(model), bench.training, Process(0, 1, place.device))
        both = Trainer(model, bench.training, place)
        seconds = bench.audio(name for batch in whole for name in batch.ids)
        found = []
        bar = Bar("Processes", bench.rounds + 1, "rounds") if place.first else None
        for turn in range(bench.rounds + 1):
            one, two = Clock(), Clock()
            if place.first:
                with one:
                    for number, batch in enumerate(whole):
                        alone.step(batch, turn * count + number, 0.0)
            dist.barrier()
            with two:
                for number, batch in enumerate(parts):
                    both.step(batch, turn * count + number, 0.0)
            shares = gather((two.cpu, two.wall))
            found.append(
                {
                    "audio": seconds,
                    "one_cpu": one.cpu,
                    "one_wall": one.wall,
                    "two_cpu": sum(cpu for cpu, _ in shares),
                    "two_wall": max(wall for _, wall in shares),
                }
            )
            if bar:
                bar.advance()
        if bar:
            bar.close()
        return found
