"""Training: CTC steps in epochs, validation WER, checkpoints, and exact resume.

What makes resuming exact is that nothing is drawn from a running random state. The order of the data
and its augmentation are pure functions of (seed, epoch, utterance); the dropout of a step is seeded
with (seed, step, rank). A checkpoint is weights, their average, optimizer and a few counters.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr import checkpoint
from asr.audio.waveform import load_audio
from asr.data.augment import AugmentConfig, Augmenter
from asr.data.index import Index, index_utterances
from asr.data.loading import Batch, Example, SpeechDataset, collate, load_batches
from asr.data.manifest import Utterance, summarize_rejects
from asr.data.planning import VERSION, EpochPlan, Indices, Planner, shard
from asr.data.selection import select_trainable
from asr.decoder.config import DecoderConfig
from asr.encoder import TRAINING_ONLY, EncoderConfig
from asr.errors import AsrError, ConfigError, DataError, TrainingError
from asr.features import FeaturesConfig
from asr.files import lock_folder, remove_leftovers, write_atomically
from asr.model import AcousticModel
from asr.recognizer import WHOLE, Recognizer
from asr.release import RELEASED
from asr.runtime.distributed import (
    Process,
    RuntimeConfig,
    from_first,
    gather,
    join,
    sum_over_processes,
)
from asr.scoring import score
from asr.text import Vocabulary, ctc_frames_needed, normalize
from asr.training.config import Outcome, TrainingCallbacks, TrainingConfig
from asr.training.curves import draw_curves
from asr.training.diagnosis import diagnose
from asr.training.interruption import Interruption
from asr.training.metrics import Metrics
from asr.training.trainer import Trainer, is_out_of_memory

DRAW_EVERY_SECONDS = 60.0  # between two pictures of the curves
LOG_EVERY_STEPS = 10  # steps between looks at the losses: each look waits for the GPU
NAMES_SHOWN = 8  # utterances that a line for people names; the metrics name all
NORMALIZATION_UTTERANCES = 1000  # spread over the training set, to measure the features' mean on
REHEARSING = ("cuda",)  # devices on which the largest batch is tried first; a CPU has no such limit
SAMPLES = 3  # utterances of the dev set whose texts TensorBoard shows


@dataclass
class Task:
    """Everything one training run is made of; picklable, so that it can go to other processes."""

    folder: Path
    training_set: Sequence[Utterance]  # a large one: an `Index`
    dev_set: Sequence[Utterance]
    vocabulary: Vocabulary
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    listener: TrainingCallbacks = field(default_factory=TrainingCallbacks)
    record: str = ""  # YAML, for people: becomes config.yaml in the folder


def largest_batch(plan: EpochPlan) -> Indices:
    """The batch of a plan that holds the most audio, padding included."""

    def padded(batch: Indices) -> float:  # the first of a batch is its longest
        return float(len(batch) * plan.seconds[batch[0]])

    return max(plan.batches, key=padded)


def train(task: Task) -> Outcome:
    """Train, or go on training, in `task.folder`, as one of the processes that `launch` started.

    The folder gets last.pt (resumable), best.pt (lowest dev WER), epoch-0001.pt and so on (if
    configured), metrics.jsonl, TensorBoard files and curves.png. Ctrl-C or SIGTERM saves and returns
    an interrupted `Outcome`; the same call goes on from there, or from the last checkpoint if the
    process was killed, as if nothing had happened.
    Raises an AsrError where the data, the configuration or the loss makes training impossible.
    """
    with join(task.runtime) as place, contextlib.ExitStack() as stack:
        if place.first:  # who alone reads and writes there
            stack.enter_context(lock_folder(task.folder, task.listener.say))
        return _Run(task, place).run()


class _Run:
    """One process's part in `train`."""

    def __init__(self, task: Task, place: Process) -> None:
        self.task = task
        self.place = place
        self.config = task.training
        self.listener = task.listener if place.first else TrainingCallbacks()
        self.epoch = 0
        self.step_in_epoch = 0
        self.step = 0
        self.epoch_loss = 0.0  # sum over the epoch's steps so far, weighted by their characters
        self.epoch_symbols = 0
        self.epoch_norm = 0.0  # sum of the gradient norms of the epoch's steps so far
        self.epoch_steps = 0  # those that were not skipped
        self.bad_steps = 0  # the last ones in a row that were skipped
        self.best_wer = math.inf
        self.drawn = -math.inf  # when the curves were drawn last

        self._check_precision()
        self.augmenter = Augmenter(task.augment, task.features.sample_rate)
        torch.manual_seed(self.config.seed)
        model = self._make_model()
        self.dev_set = self._read_dev_set()
        self.admitted = self._select_trainable(model)
        self.fingerprint = self._fingerprint()
        self._compare_with_first()
        # Every process goes on from the same one, whatever each could read and while it is replaced.
        saved = from_first(self._read_saved() if place.first else None)
        if saved is None:
            if self.config.start_from == "released":
                self._start_from(model, str(RELEASED))
            elif self.config.start_from:
                self._start_from(model, self.config.start_from)
            else:
                self._measure_features(model)
        else:
            model.load_state_dict(saved["training"]["weights"])
        self.trainer = Trainer(model, self.config, place)
        if saved is not None:
            self.trainer.result.load_state_dict(saved["weights"])
            self.trainer.optimizer.load_state_dict(saved["training"]["optimizer"])
            for key, value in saved["training"]["counters"].items():
                setattr(self, key, value)
            self.listener.say(
                f"Going on in {task.folder} after {self.epoch} epochs and "
                f"{self.step_in_epoch} steps."
            )
        self.metrics: Metrics | None = None
        if place.first:
            remove_leftovers(task.folder)
            if task.record:
                path = task.folder / "config.yaml"
                write_atomically(path, lambda file: file.write(task.record.encode()))
            position = saved["training"]["metrics"] if saved is not None else 0
            self.metrics = Metrics(task.folder, position, self.step)
            if self.metrics.lost:
                self.listener.say(
                    f"{task.folder / 'metrics.jsonl'} lacks what was in it at the last checkpoint: "
                    "the log, not the training, goes on with a gap."
                )

        size = sum(p.numel() for p in model.parameters())
        self.listener.say(
            f"Model: {size / 1e6:.1f} M parameters. Training set: {len(self.admitted)} utterances, "
            f"{self.admitted.seconds.sum() / 3600:.2f} h. "
            f"{place.processes} process(es) on {place.device.type}, "
            f"{torch.get_num_threads()} thread(s) each."
        )

    def run(self) -> Outcome:
        folder = self.task.folder
        with self.metrics or contextlib.nullcontext():
            self._run_epochs()
        if self.epoch == self.config.epochs and self.place.first:
            curves = folder / "curves.png"
            if not curves.exists():  # it was killed while it drew them
                draw_curves(folder)
            self.listener.say(
                f"Trained. Best dev WER: {100 * self.best_wer:.2f} %. Model: "
                f"{folder / 'best.pt'}, curves: {curves}"
            )
        interrupted = self.epoch < self.config.epochs
        return Outcome(self.task.folder, self.epoch, self.step, self.best_wer, interrupted)

    def _run_epochs(self) -> None:
        task, config = self.task, self.config
        planner = Planner(
            self.admitted.seconds,
            self.admitted.hashes,
            config.batch_seconds,
            task.augment,
            config.seed,
        )
        dataset = SpeechDataset(
            self.admitted,
            self.admitted.symbols,
            task.vocabulary,
            self.trainer.model.features,
            self.augmenter,
            config.seed,
            twice=config.consistency > 0,
        )
        if self.place.device.type in REHEARSING and self.epoch < config.epochs:
            self._check_memory(planner.epoch(self.epoch), dataset)
        batches = load_batches(
            dataset,
            planner,
            epochs=range(self.epoch, config.epochs),
            first_step=self.step_in_epoch,
            rank=self.place.rank,
            processes=self.place.processes,
            workers=task.runtime.resolve().workers,
        )
        interruption = Interruption(self.place.device)
        with interruption, contextlib.closing(batches):
            while self.epoch < config.epochs and not interruption.agreed:
                self._run_epoch(len(planner.epoch(self.epoch)), batches, interruption)

    def _check_memory(self, plan: EpochPlan, dataset: SpeechDataset) -> None:
        """Try the largest batch of a plan, with silence in place of its recordings.

        Too large a batch then ends the training at its start, not in its last epoch's last step.
        """
        batch = largest_batch(plan)
        log_mel = self.trainer.model.features
        examples = []
        for index in shard(batch, self.place.rank, self.place.processes):
            utterance = self.admitted[index]
            tempo = plan.tempos[index]
            samples = math.ceil(plan.seconds[index] * tempo * log_mel.config.sample_rate)
            frames = math.ceil(log_mel.frames(samples) / tempo)
            features = torch.zeros(frames, log_mel.config.mels)
            target = torch.tensor(self.task.vocabulary.encode(utterance.text, utterance.id))
            second = features if self.config.consistency else None
            examples.append(Example(utterance.id, features, target, second))
        symbols = int(dataset.target_lengths[batch].sum())
        self.trainer.check_memory(collate(examples, log_mel.config.mels, symbols))

    def _run_epoch(
        self, steps: int, batches: Iterator[Batch], interruption: "Interruption"
    ) -> None:
        """Run the epoch's steps from the current one on, validate, and save; or stop in between."""
        started = time.monotonic()
        self.trainer.model.train()
        self.listener.epoch_begins(self.epoch + 1, self.config.epochs, steps, self.step_in_epoch)
        try:
            self._run_steps(steps, batches, interruption)
        finally:
            self.listener.epoch_ends()
        if interruption.agreed or not self._validate(time.monotonic() - started, interruption):
            return
        self.epoch += 1
        self.step_in_epoch, self.epoch_loss, self.epoch_symbols = 0, 0.0, 0
        self.epoch_norm, self.epoch_steps = 0.0, 0
        self._save_last()
        if self.place.first and (
            self.epoch == self.config.epochs or time.monotonic() - self.drawn > DRAW_EVERY_SECONDS
        ):
            draw_curves(self.task.folder)
            self.drawn = time.monotonic()

    def _run_steps(
        self, steps: int, batches: Iterator[Batch], interruption: "Interruption"
    ) -> None:
        pending: list[_Step] = []
        while self.step_in_epoch < steps and not interruption.agreed:
            batch = next(batches)
            progress = (self.epoch + self.step_in_epoch / steps) / self.config.epochs
            rate = self.trainer.learning_rate(self.step, progress)
            losses, norm = self.trainer.step(batch, self.step, progress)
            pending.append(_Step(losses, norm, rate, batch.symbols, batch.ids))
            self.step += 1
            self.step_in_epoch += 1
            due = self.step % self.config.checkpoint_steps == 0
            last = self.step_in_epoch == steps
            if due or last or len(pending) == LOG_EVERY_STEPS or self.place.device.type == "cpu":
                interruption.agree()
                self._log(pending, min(steps, self.config.bad_steps_limit))
                pending = []
                if due or last or interruption.agreed:  # the last one: before the validation
                    self._save_last()

    def _log(self, pending: list["_Step"], limit: int) -> None:
        """Sum the pending steps' losses over the processes, check them and write them down.

        Raises TrainingError where `limit` steps in a row were skipped.
        """
        parts = torch.stack([step.losses.sum() for step in pending])
        losses = sum_over_processes(parts).tolist()
        norms = torch.stack([step.norm for step in pending]).tolist()
        first = self.step - len(pending)
        for offset, (step, loss, norm) in enumerate(zip(pending, losses, norms, strict=True)):
            number = first + offset + 1
            if not math.isfinite(norm):
                self._log_skipped(step, number, loss, norm, limit)
                continue
            self.bad_steps = 0
            self.epoch_loss += loss * step.symbols
            self.epoch_symbols += step.symbols
            self.epoch_norm += norm
            self.epoch_steps += 1
            if self.metrics is not None:
                self.metrics.write(
                    "step",
                    number,
                    {
                        "epoch": self.epoch + 1,
                        "loss": loss,
                        "gradient_norm": norm,
                        "learning_rate": step.learning_rate,
                    },
                )
        self.listener.steps_done(len(pending), losses[-1])

    def _log_skipped(
        self, step: "_Step", number: int, loss: float, norm: float, limit: int
    ) -> None:
        """Name the utterances of a step that was skipped; TrainingError if it was the last straw."""
        self.bad_steps += 1
        names = [name for part in gather(step.suspects()) for name in part]
        # The losses may all be finite and the gradient not, which nobody can lay to one utterance.
        names = names or [name for part in gather(step.ids) for name in part]
        if self.metrics is not None:
            self.metrics.write(
                "skipped",
                number,
                {
                    "epoch": self.epoch + 1,
                    "loss": str(loss),  # JSON has no word for what is not a finite number
                    "gradient_norm": str(norm),
                    "utterances": names,
                },
            )
        told = ", ".join(names[:NAMES_SHOWN])
        if len(names) > NAMES_SHOWN:
            told += f" and {len(names) - NAMES_SHOWN} more"
        what = f"loss at step {number} is {loss} with gradient norm {norm} on {told}"
        if self.bad_steps >= limit:
            raise TrainingError(
                f"The {what}, and {self.bad_steps} step(s) in a row were such; look at these "
                "utterances, or train in another folder with a lower training.learning_rate."
            )
        self.listener.say(f"The {what}: skipped.")

    def _validate(self, seconds: float, interruption: "Interruption") -> bool:
        """Transcribe the dev set with the model that training has made; keep it if it is the best.

        Whether that was done: an interruption ends it, and it is done again.
        """
        texts, loss, symbols, frames, blanks = {}, 0.0, 0, 0, 0
        mine = self.dev_set[self.place.rank :: self.place.processes]
        recognizer = Recognizer(self.trainer.result.eval(), self.task.vocabulary, self.task.decoder)
        sources = [(u.audio, u.seconds) for u in mine]
        # Without endpoints, because the loss needs every frame of an utterance.
        for index, segments in recognizer.emissions(sources, operating_point=WHOLE):
            if isinstance(segments, AsrError):
                raise segments
            if interruption.asked:
                break
            utterance = mine[index]
            emission = np.concatenate([s.log_probs for s in segments])  # (T', V)
            if np.isnan(emission).any():
                raise TrainingError(
                    f"After step {self.step} the model has no probabilities for {utterance.id}, its "
                    "weights are beyond all bounds; train in another folder with a lower "
                    "training.learning_rate."
                )
            frames += len(emission)
            blanks += int((emission.argmax(axis=1) == 0).sum())
            texts[utterance.id] = recognizer.decode(segments).text
            target = self.task.vocabulary.encode(utterance.text, utterance.id)
            if len(emission) >= ctc_frames_needed(target):
                loss += float(
                    nn.functional.ctc_loss(
                        torch.from_numpy(emission),
                        torch.tensor(target),
                        torch.tensor(len(emission)),
                        torch.tensor(len(target)),
                        reduction="sum",
                    )
                )
                symbols += len(target)
        interruption.agree()
        if interruption.agreed:
            return False
        shares = gather((texts, loss, symbols, frames, blanks))
        texts = {name: text for share in shares for name, text in share[0].items()}
        report = score({u.id: u.text for u in self.dev_set}, texts)
        loss, symbols, frames, blanks = (sum(share[i] for share in shares) for i in range(1, 5))
        dev_loss = loss / max(1, symbols)
        train_loss = self.epoch_loss / self.epoch_symbols
        blank_ratio = blanks / max(1, frames)
        if self.metrics is not None:
            self.metrics.write(
                "epoch",
                self.step,
                {
                    "epoch": self.epoch + 1,
                    "train_loss": train_loss,
                    "gradient_norm": self.epoch_norm / self.epoch_steps,
                    "dev_loss": dev_loss,
                    "wer": report.wer,
                    "cer": report.cer,
                    "blank_ratio": blank_ratio,
                    "empty_ratio": sum(not text for text in texts.values()) / len(texts),
                    "hours": float(self.admitted.seconds.sum()) / 3600,  # of audio, in the epoch
                },
            )
            stride = -(-len(self.dev_set) // SAMPLES)
            self.metrics.write_samples(
                self.step, [(u.id, u.text, texts[u.id]) for u in self.dev_set[::stride]]
            )
        better = report.wer < self.best_wer
        self.listener.say(
            f"Epoch {self.epoch + 1}/{self.config.epochs}: loss {train_loss:.3f}, "
            f"dev loss {dev_loss:.3f}, WER {100 * report.wer:.2f} %, CER {100 * report.cer:.2f} %"
            f"{' (best)' if better else ''}, {100 * blank_ratio:.1f} % of the frames blank, "
            f"{seconds:.0f} s"
        )
        if self.metrics is not None:
            for line in diagnose(self.metrics.epochs):
                self.listener.say(line)
        if better:
            self.best_wer = report.wer
            self._save_result("best.pt", report.wer)
        if self.config.keep:
            self._save_result(checkpoint.name_epoch(self.epoch + 1), report.wer)
            if self.place.first:
                checkpoint.remove_epochs(self.task.folder, self.epoch + 1 - self.config.keep)
        return True

    def _save_result(self, name: str, wer: float) -> None:
        """Write the model that training has made so far, whose WER on the dev set is `wer`."""
        if not self.place.first:
            return
        facts: dict[str, object] = {"epoch": self.epoch + 1, "step": self.step, "dev_wer": wer}
        checkpoint.save_model(
            self.task.folder / name,
            self.trainer.result,
            self.task.vocabulary,
            facts,
            decoder=self.task.decoder,
        )

    def _save_last(self) -> None:
        """Write last.pt: with it, a later call goes on exactly here."""
        if self.metrics is None:
            return
        training = {
            # Those being trained; the checkpoint's own are, as in best.pt, what training has made.
            "weights": self.trainer.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "metrics": self.metrics.position(),
            "fingerprint": self.fingerprint,
        }
        facts: dict[str, object] = {
            "epoch": self.epoch,
            "step": self.step,
            "best_dev_wer": self.best_wer,
        }
        checkpoint.save_model(
            self.task.folder / "last.pt",
            self.trainer.result,
            self.task.vocabulary,
            facts,
            training,
            self.task.decoder,
        )

    def _make_model(self) -> AcousticModel:
        task = self.task
        try:
            return AcousticModel(task.features, task.encoder, len(task.vocabulary))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                "The model does not fit into this machine's memory; lower encoder.hidden, "
                "encoder.layers or encoder.stack."
            ) from error

    def _check_precision(self) -> None:
        if self.config.precision == "bf16" and (
            self.place.device.type == "cpu"
            or not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise ConfigError(
                "training.precision is bf16, which this device computes much more slowly than "
                "float32; use float32 or auto."
            )

    def _read_dev_set(self) -> list[Utterance]:
        """The dev set with normalized texts, the longest first: neighbors make full batches.

        Raises DataError where it or a recording is missing and TextError for a character without a
        symbol: at the start, not when the first epoch is over.
        """
        utterances = [replace(u, text=normalize(u.text, "plain")) for u in self.task.dev_set]
        if not utterances:
            raise DataError("The dev set holds no utterance; the best epoch is chosen on it.")
        for utterance in utterances:
            self.task.vocabulary.encode(utterance.text, utterance.id)
            if not os.path.isfile(utterance.audio):
                raise DataError(
                    f"{utterance.audio}, the recording of {utterance.id} in the dev set, is not "
                    "there; mend the manifest."
                )
        return sorted(utterances, key=lambda u: -u.seconds)

    def _select_trainable(self, model: AcousticModel) -> Index:
        """The training utterances that can be learned from; the rejects are told to the listener."""
        task = self.task
        admitted, rejects = select_trainable(
            task.training_set,
            task.vocabulary,
            model.frames,
            fastest=task.augment.fastest,
            max_seconds=self.config.batch_seconds,
            sample_rate=task.features.sample_rate,
        )
        if rejects:
            self.listener.say(summarize_rejects(rejects))
        if not admitted:
            raise DataError("No training utterance is left after these rejects; mend the manifest.")
        return admitted

    def _start_from(self, model: AcousticModel, path: str) -> None:
        """Give a model the weights and the normalization of a checkpoint.

        Raises ConfigError where it is another model.
        """
        payload = checkpoint.Checkpoint.read(path).payload
        differences = []
        for section, ours in (("features", self.task.features), ("encoder", self.task.encoder)):
            differences += [
                f"{section}.{key}={payload[section].get(key)}"
                for key, value in asdict(ours).items()
                if f"{section}.{key}" not in TRAINING_ONLY and payload[section].get(key) != value
            ]
        if differences:
            raise ConfigError(
                f"{path} holds another model than this training's; to start from it, add "
                f"{' '.join(differences)} to the command."
            )
        if payload["vocabulary"] != self.task.vocabulary.to_list():
            raise ConfigError(
                f"{path} writes other characters ({''.join(payload['vocabulary'][1:])!r}) than this "
                f"training ({''.join(self.task.vocabulary.to_list()[1:])!r}); set data.vocabulary, "
                "or normalize the transcripts, so that they are the same."
            )
        model.load_state_dict(payload["weights"])
        self.listener.say(f"Starting from the weights of {path}.")

    def _measure_features(self, model: AcousticModel) -> None:
        """Measure the features' mean and deviation on the first process, and hand them to all."""
        if self.place.first:
            stride = -(-len(self.admitted) // NORMALIZATION_UTTERANCES)
            rate = self.task.features.sample_rate
            model.features.measure(load_audio(u.audio, rate) for u in self.admitted[::stride])
        mean, std = from_first((model.features.mean, model.features.std))
        model.features.mean.copy_(mean)
        model.features.std.copy_(std)

    def _fingerprint(self) -> dict[str, str]:
        """What a run must share with its checkpoint to go on as if it had never stopped."""
        task = self.task
        parts: dict[str, object] = {
            f"{section}.{key}": value
            for section in ("features", "encoder", "augment", "training", "decoder")
            for key, value in asdict(getattr(task, section)).items()
            if key not in FREE
        }
        parts["the vocabulary"] = task.vocabulary.to_list()
        parts["planning.version"] = VERSION
        parts["the recordings of noises and rooms"] = self.augmenter.digest()
        for name, index in (("training", self.admitted), ("dev", index_utterances(self.dev_set))):
            parts[f"the {name} set"] = index.digest()
        return {name: json.dumps(value) for name, value in parts.items()}

    def _compare_with_first(self) -> None:
        """Raise ConfigError where a process would train something else than the first one."""
        first = from_first(self.fingerprint)
        names = [name for name, value in self.fingerprint.items() if first.get(name) != value]
        for rank, others in enumerate(gather(names)):
            if others:
                raise ConfigError(
                    f"Process {rank} has another value of {others[0]} than process 0; give all "
                    "machines the same command and the same manifests."
                )

    def _read_saved(self) -> dict[str, Any] | None:
        """The payload of last.pt, or None where this run begins; ConfigError where it is not ours."""
        path = self.task.folder / "last.pt"
        if not path.exists():
            best = path.with_name("best.pt")
            if best.exists():
                raise ConfigError(
                    f"{best} is there without the last.pt to go on from, and would be written over; "
                    "move it away, or train in another folder."
                )
            return None
        saved = checkpoint.Checkpoint.read(path).payload
        if saved["training"] is None:
            raise ConfigError(f"{path} holds no training to go on with; choose another folder.")
        before = saved["training"]["fingerprint"]
        for name, value in self.fingerprint.items():
            if before.get(name) != value:
                change = f" ({before.get(name)} then, {value} now)" if name.count(".") == 1 else ""
                raise ConfigError(
                    f"{path} was trained with another value of {name}{change}; "
                    "restore it to go on, or train in another folder."
                )
        return saved


# What a resumed training may change: like the number of processes, it is not what is trained.
FREE = ("accumulate", "bad_steps_limit", "checkpoint_steps", "keep")

COUNTERS = (
    "epoch",
    "step_in_epoch",
    "step",
    "epoch_loss",
    "epoch_symbols",
    "epoch_norm",
    "epoch_steps",
    "bad_steps",
    "best_wer",
)


@dataclass(frozen=True)
class _Step:
    """A step whose losses have not been looked at yet."""

    losses: Tensor
    norm: Tensor
    learning_rate: float
    symbols: int
    ids: list[str]

    def suspects(self) -> list[str]:
        """This process's utterances whose own loss is not finite."""
        losses = self.losses.tolist()[: len(self.ids)]  # one zero stands for no utterance
        return [
            name for name, loss in zip(self.ids, losses, strict=True) if not math.isfinite(loss)
        ]
