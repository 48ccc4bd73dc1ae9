"""A training run: CTC steps in epochs, validation, checkpoints and exact resume.

Resuming is exact because nothing is drawn from a running random state. The order of the data and its
augmentation are pure functions of (seed, epoch, utterance); the dropout of a step is seeded with
(seed, step, rank). A checkpoint holds weights, their average, the optimizer and a few counters.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from asr import checkpoint
from asr.data.augment import Augmenter
from asr.data.index import Index
from asr.data.loading import Batch, Example, SpeechDataset, collate, load_batches
from asr.data.manifest import Utterance
from asr.data.planning import EpochPlan, Indices, Planner, shard
from asr.errors import TrainingError
from asr.files import lock_folder, remove_leftovers, write_text
from asr.recognizer import Recognizer
from asr.runtime import distributed
from asr.runtime.distributed import Process, gather
from asr.runtime.signals import handling_stops
from asr.training import preparation, resume
from asr.training.config import Outcome, Task, TrainingCallbacks
from asr.training.curves import draw_curves
from asr.training.diagnosis import diagnose
from asr.training.interruption import Interruption
from asr.training.metrics import Metrics
from asr.training.trainer import Trainer
from asr.training.validation import Validation, validate

DRAW_EVERY_SECONDS = 60.0  # shortest time between two plots of the curves
LOG_EVERY_STEPS = 10  # on a GPU, where reading the losses synchronizes with the device
NAMES_SHOWN = 8  # utterances named in a message; metrics.jsonl names all
# Devices on which the largest batch is tried first. A CPU has no such hard limit.
MEMORY_CHECKED_DEVICES = ("cuda",)


def train(task: Task) -> Outcome:
    """Train, or resume training, in `task.folder`, as one of the processes that `launch` started.

    The folder gets last.pt (resumable), best.pt (lowest dev WER), epoch-0001.pt and so on (if
    configured), metrics.jsonl, TensorBoard files and curves.png. Ctrl-C or SIGTERM saves and returns
    an interrupted `Outcome`; the same call resumes from there, or from the last checkpoint if the
    process was killed, with the same result as without the interruption.

    Raises:
        AsrError: If the data, the configuration or the loss does not allow training.
    """
    with distributed.process_group(task.runtime) as process, contextlib.ExitStack() as stack:
        if process.first:  # only rank 0 reads and writes in the folder
            stack.enter_context(lock_folder(task.folder, task.callbacks.say))
        return prepare(task, process).run()


def prepare(task: Task, process: Process) -> "Run":
    """Check the task, make or load the model, and open the metrics: a run that is ready to start.

    Raises an AsrError if the data or the configuration does not allow training, or if the folder
    contains another run.
    """
    callbacks = task.callbacks if process.first else TrainingCallbacks()
    preparation.check_precision(task, process)
    augmenter = Augmenter(task.augment, task.features.sample_rate)
    torch.manual_seed(task.training.seed)
    model = preparation.make_model(task)
    dev_set = preparation.check_dev_set(task)
    training_set = preparation.select_training_set(task, model, callbacks)
    fingerprint = resume.compute_fingerprint(task, training_set, dev_set, augmenter)
    resume.compare_processes(fingerprint)
    # All processes resume from what rank 0 reads, while the file may be replaced or out of reach.
    saved = distributed.broadcast_from_rank_zero(
        resume.read_last(task.folder, fingerprint) if process.first else None
    )
    state: dict[str, Any] = saved["training"] if saved else {"counters": {}, "metrics": 0}
    if saved:
        model.load_state_dict(state["weights"])
    elif task.training.start_from:
        callbacks.say(resume.start_from(model, task))
    else:
        preparation.fit_normalization(task, model, training_set, process)
    trainer = Trainer(model, task.training, process)
    counters = resume.Counters(**state["counters"])
    if saved:
        trainer.result.load_state_dict(saved["weights"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        callbacks.say(
            f"Resuming in {task.folder} after {counters.epoch} epochs and "
            f"{counters.step_in_epoch} steps."
        )
    metrics = _open_metrics(task, state["metrics"], counters.step) if process.first else None
    size = sum(p.numel() for p in model.parameters())
    callbacks.say(
        f"Model: {size / 1e6:.1f} M parameters. Training set: {len(training_set)} utterances, "
        f"{training_set.seconds.sum() / 3600:.2f} h. "
        f"{process.world_size} process(es) on {process.device.type}, "
        f"{torch.get_num_threads()} thread(s) each."
    )
    return Run(
        task, process, callbacks, trainer, training_set, dev_set, augmenter, fingerprint, counters,
        metrics,
    )  # fmt: skip


def _open_metrics(task: Task, position: int, step: int) -> Metrics:
    """Clean the folder up, write config.yaml, and rewind the metrics to the last checkpoint."""
    remove_leftovers(task.folder)
    if task.record:
        write_text(task.folder / "config.yaml", task.record)
    metrics = Metrics(task.folder, position, step)
    if metrics.lost:
        task.callbacks.say(
            f"{task.folder / 'metrics.jsonl'} has lost lines since the last checkpoint: the log "
            "continues with a gap; training is not affected."
        )
    return metrics


def largest_batch(plan: EpochPlan) -> Indices:
    """The batch of a plan with the most audio, padding included."""
    # The first utterance of a batch is its longest.
    return max(plan.batches, key=lambda batch: len(batch) * plan.seconds[batch[0]])


@dataclass(frozen=True)
class _PendingStep:
    """A step whose losses are still on the device."""

    losses: Tensor
    norm: Tensor
    rate: float  # the learning rate
    symbols: int
    ids: list[str]
    unreadable: dict[str, str]

    def find_suspects(self) -> list[str]:
        """This process's utterances whose own loss is not finite."""
        losses = zip(self.ids, self.losses.tolist(), strict=False)  # no ids: one loss of zero
        return [name for name, loss in losses if not math.isfinite(loss)]


@dataclass
class Run:
    """One process's part of a training run: its epochs, their steps, and what is saved of them."""

    task: Task
    process: Process
    callbacks: TrainingCallbacks
    trainer: Trainer
    training_set: Index
    dev_set: list[Utterance]
    augmenter: Augmenter
    fingerprint: dict[str, str]
    counters: resume.Counters
    metrics: Metrics | None  # on rank 0 only
    unreadable: set[str] = field(default_factory=set)  # ids of skipped recordings
    drawn_at: float = field(default_factory=time.monotonic)  # when the curves were last drawn

    def run(self) -> Outcome:
        """Train to the last epoch or an interruption."""
        folder, counters = self.task.folder, self.counters
        with self.metrics or contextlib.nullcontext():
            self._run_epochs()
        interrupted = counters.epoch < self.task.training.epochs
        if self.process.first and not interrupted:
            curves = folder / "curves.png"
            if not curves.exists():  # an earlier process was killed while it drew them
                draw_curves(folder)
            self.callbacks.say(
                f"Trained. Best dev WER: {100 * counters.best_wer:.2f} %. Model: "
                f"{folder / 'best.pt'}, curves: {curves}"
            )
        return Outcome(folder, counters.epoch, counters.step, counters.best_wer, interrupted)

    def _run_epochs(self) -> None:
        task, config, counters = self.task, self.task.training, self.counters
        index, seed = self.training_set, config.seed
        planner = Planner(index.seconds, index.hashes, config.batch_seconds, task.augment, seed)
        vocabulary, log_mel = task.data.vocabulary, self.trainer.model.features
        dataset = SpeechDataset(
            index, index.symbols, vocabulary, log_mel, self.augmenter, seed, config.consistency > 0
        )
        if self.process.device.type in MEMORY_CHECKED_DEVICES and counters.epoch < config.epochs:
            self._check_memory(planner.epoch(counters.epoch), dataset)
        batches = load_batches(
            dataset,
            planner,
            epochs=range(counters.epoch, config.epochs),
            first_step=counters.step_in_epoch,
            rank=self.process.rank,
            processes=self.process.world_size,
            workers=task.runtime.resolve().workers,
        )
        interruption = Interruption(self.process.device)
        with handling_stops(interruption.request), contextlib.closing(batches):
            while counters.epoch < config.epochs and not interruption.agreed:
                self._run_epoch(len(planner.epoch(counters.epoch)), batches, interruption)

    def _check_memory(self, plan: EpochPlan, dataset: SpeechDataset) -> None:
        """Try the largest batch of a plan, with silence in place of its recordings.

        A batch that does not fit into memory then stops training at its start.
        """
        batch, log_mel = largest_batch(plan), self.trainer.model.features
        examples = []
        for index in shard(batch, self.process.rank, self.process.world_size):
            utterance, tempo = self.training_set[index], plan.tempos[index]
            samples = math.ceil(plan.seconds[index] * tempo * log_mel.config.sample_rate)
            frames = math.ceil(log_mel.frames(samples) / tempo)
            features = torch.zeros(frames, log_mel.config.mels)  # (T, F)
            target = torch.tensor(self.task.data.vocabulary.encode(utterance.text, utterance.id))
            second = features if self.task.training.consistency else None
            examples.append(Example(utterance.id, features, target, second))
        symbols = int(dataset.target_lengths[batch].sum())
        self.trainer.check_memory(collate(examples, log_mel.config.mels, symbols))

    def _run_epoch(self, steps: int, batches: Iterator[Batch], interruption: Interruption) -> None:
        """Run the remaining steps of the epoch, validate and save, unless interrupted before."""
        counters, epochs = self.counters, self.task.training.epochs
        started = time.monotonic()
        self.trainer.model.train()
        self.callbacks.epoch_begins(counters.epoch + 1, epochs, steps, counters.step_in_epoch)
        try:
            self._run_steps(steps, batches, interruption)
        finally:
            self.callbacks.epoch_ends()
        if interruption.agreed:
            return
        seconds = time.monotonic() - started
        model, vocabulary = self.trainer.result.eval(), self.task.data.vocabulary
        recognizer = Recognizer(model, vocabulary, self.task.decoder)
        validation = validate(recognizer, self.dev_set, self.process, interruption)
        if validation is None:
            return
        self._report(validation, seconds)
        self._keep_models(validation.report.wer)
        counters.finish_epoch()
        self._save_last()
        if self.process.first and (
            counters.epoch == epochs or time.monotonic() - self.drawn_at > DRAW_EVERY_SECONDS
        ):
            draw_curves(self.task.folder)
            self.drawn_at = time.monotonic()

    def _run_steps(self, steps: int, batches: Iterator[Batch], interruption: Interruption) -> None:
        config, counters = self.task.training, self.counters
        pending: list[_PendingStep] = []
        while counters.step_in_epoch < steps and not interruption.agreed:
            batch = next(batches)
            progress = (counters.epoch + counters.step_in_epoch / steps) / config.epochs
            rate = self.trainer.learning_rate(counters.step, progress)
            losses, norm = self.trainer.step(batch, counters.step, progress)
            step = _PendingStep(losses, norm, rate, batch.symbols, batch.ids, batch.unreadable)
            pending.append(step)
            counters.step += 1
            counters.step_in_epoch += 1
            due = counters.step % config.checkpoint_steps == 0
            last = counters.step_in_epoch == steps
            on_cpu = self.process.device.type == "cpu"
            if due or last or len(pending) == LOG_EVERY_STEPS or on_cpu:
                interruption.agree()
                self._log(pending, min(steps, config.bad_steps_limit))
                pending = []
                if due or last or interruption.agreed:  # the last one: before the validation
                    self._save_last()

    def _log(self, pending: list[_PendingStep], limit: int) -> None:
        """Sum the losses of the pending steps over the processes, check them and write them down.

        Raises TrainingError if `limit` steps in a row were skipped.
        """
        counters = self.counters
        missing = sum(len(step.unreadable) for step in pending)
        sums = [step.losses.sum() for step in pending]
        parts = torch.stack([*sums, sums[0].new_tensor(missing)])  # (steps + 1,)
        *losses, missing = distributed.all_reduce_sum(parts).tolist()
        if missing:
            self._report_unreadable(pending)
        norms = torch.stack([step.norm for step in pending]).tolist()
        results = zip(pending, losses, norms, strict=True)
        for number, (step, loss, norm) in enumerate(results, counters.step - len(pending) + 1):
            if not math.isfinite(norm):
                self._log_skipped(step, number, loss, norm, limit)
                continue
            counters.bad_steps = 0
            counters.epoch_loss += loss * step.symbols
            counters.epoch_symbols += step.symbols
            counters.epoch_norm += norm
            counters.epoch_steps += 1
            self._write("step", number, loss=loss, gradient_norm=norm, learning_rate=step.rate)
        self.callbacks.steps_done(len(pending), losses[-1])

    def _report_unreadable(self, pending: list[_PendingStep]) -> None:
        """Name the recordings that could not be read; TrainingError if they are too many."""
        tenth = len(self.training_set) // 10
        limit = min(self.task.training.unreadable_limit, tenth)
        found = [list(step.unreadable.items()) for step in pending]
        for name, reason in (pair for part in gather(found) for pairs in part for pair in pairs):
            if name in self.unreadable:
                continue
            self.unreadable.add(name)
            self._write("unreadable", self.counters.step, utterance=name, reason=reason)
            if len(self.unreadable) > limit:
                count = len(self.unreadable)
                raising = ", or raise training.unreadable_limit" if limit < tenth else ""
                raise TrainingError(
                    f"{count} recording{'s' if count > 1 else ''} of the training set cannot be read, "
                    f"and at most {limit} may be skipped (training.unreadable_limit, or a tenth of the "
                    "set if that is less); remove such recordings from the manifest, for example with "
                    f"asr doctor --write{raising}; the last one is {name}: {reason}"
                )
            self.callbacks.say(f"The recording of {name} is skipped: {reason}.")

    def _log_skipped(
        self, step: _PendingStep, number: int, loss: float, norm: float, limit: int
    ) -> None:
        """Name the utterances of a skipped step; TrainingError if it reaches the limit."""
        self.counters.bad_steps += 1
        names = [name for part in gather(step.find_suspects()) for name in part]
        # Finite losses with a gradient that is not cannot be attributed to single utterances.
        names = names or [name for part in gather(step.ids) for name in part]
        # As strings, because JSON cannot express NaN and infinity.
        self._write("skipped", number, loss=str(loss), gradient_norm=str(norm), utterances=names)
        shown = ", ".join(names[:NAMES_SHOWN])
        if len(names) > NAMES_SHOWN:
            shown += f" and {len(names) - NAMES_SHOWN} more"
        problem = f"loss at step {number} is {loss} with gradient norm {norm} on {shown}"
        if self.counters.bad_steps >= limit:
            raise TrainingError(
                f"the {problem}, the last of {self.counters.bad_steps} such step(s) in a row; check "
                "these utterances, or train in another folder with a lower training.learning_rate"
            )
        self.callbacks.say(f"The {problem}: skipped.")

    def _report(self, validation: Validation, seconds: float) -> None:
        """Write the epoch's metrics and show them, with a diagnosis if training goes wrong."""
        if self.metrics is None:
            return
        counters, report = self.counters, validation.report
        train_loss = counters.epoch_loss / counters.epoch_symbols
        self._write(
            "epoch",
            counters.step,
            train_loss=train_loss,
            gradient_norm=counters.epoch_norm / counters.epoch_steps,
            dev_loss=validation.loss,
            wer=report.wer,
            cer=report.cer,
            blank_ratio=validation.blank_ratio,
            empty_ratio=validation.empty_ratio,
            hours=float(self.training_set.seconds.sum()) / 3600,  # audio in the epoch
        )
        self.metrics.write_samples(counters.step, validation.samples)
        self.callbacks.say(
            f"Epoch {counters.epoch + 1}/{self.task.training.epochs}: loss {train_loss:.3f}, "
            f"dev loss {validation.loss:.3f}, WER {100 * report.wer:.2f} %, "
            f"CER {100 * report.cer:.2f} %"
            f"{' (best)' if report.wer < counters.best_wer else ''}, "
            f"{100 * validation.blank_ratio:.1f} % of the frames blank, {seconds:.0f} s"
        )
        for line in diagnose(self.metrics.epochs):
            self.callbacks.say(line)

    def _write(self, kind: str, step: int, **values: object) -> None:
        """Write a line of metrics of the current epoch, on rank 0."""
        if self.metrics is not None:
            self.metrics.write(kind, step, {"epoch": self.counters.epoch + 1, **values})

    def _keep_models(self, wer: float) -> None:
        """Save the model if it is the best so far, and among those of the last epochs."""
        counters, keep = self.counters, self.task.training.keep
        epoch, is_best = counters.epoch + 1, wer < counters.best_wer
        counters.best_wer = min(counters.best_wer, wer)
        if not self.process.first:
            return
        facts = {"epoch": epoch, "step": counters.step, "dev_wer": wer}
        if is_best:
            self._save("best.pt", facts)
        if keep:
            self._save(checkpoint.name_epoch(epoch), facts)
            checkpoint.remove_epochs(self.task.folder, epoch - keep)

    def _save_last(self) -> None:
        """Save last.pt, from which a later call resumes exactly here."""
        if self.metrics is None:
            return
        counters = self.counters
        facts = {"epoch": counters.epoch, "step": counters.step, "best_dev_wer": counters.best_wer}
        training = {
            # The checkpoint's own weights are, as in best.pt, those of `result`.
            "weights": self.trainer.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "counters": asdict(counters),
            "metrics": self.metrics.position(),
            "fingerprint": self.fingerprint,
        }
        self._save("last.pt", facts, training)

    def _save(
        self, name: str, facts: dict[str, Any], training: dict[str, Any] | None = None
    ) -> None:
        path, model, data = self.task.folder / name, self.trainer.result, self.task.data
        checkpoint.save_model(path, model, data.vocabulary, facts, training, self.task.decoder)
