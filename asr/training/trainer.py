"""One optimization step: forward, CTC, backward, clipping, AdamW, average of the weights."""

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from asr.data.loading import Batch
from asr.encoder import Context
from asr.errors import TrainingError
from asr.model import AcousticModel, Emissions
from asr.runtime.distributed import Process
from asr.training.config import TrainingConfig
from asr.training.loss import average_decay, consistency_loss, ctc_losses


class Trainer:
    """The mathematics of one step: forward, CTC, backward, clipping, AdamW, the average of the weights.

    The loss is summed over the utterances of all processes and divided by the batch's characters, so
    that it does not depend on how a batch is shared out. `result` is the model that training makes:
    it holds the averaged weights, or is `model` itself where they are not averaged.
    """

    def __init__(self, model: AcousticModel, config: TrainingConfig, place: Process) -> None:
        self.config = config
        self.place = place
        self.model = model.to(place.device)
        self._parallel: nn.Module = self.model
        if place.processes > 1:
            on_gpu = place.device.type == "cuda"
            self._parallel = DistributedDataParallel(
                self.model, device_ids=[place.device] if on_gpu else None
            )
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto"
            and place.device.type == "cuda"
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        self.half = self.bf16 and place.device.type == "cuda"  # recurrent layers in float16
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self.result = self.model
        if config.average_decay:
            # Moved, though it is there already, to lay its weights out as cuDNN wants them.
            self.result = copy.deepcopy(self.model).requires_grad_(False).to(place.device)

    def learning_rate(self, step: int, progress: float) -> float:
        """For `step` (from 0), at `progress` in [0, 1] through the training: warm-up, half cosine."""
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))

    def step(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """Train on this process's share of a batch.

        Returns `losses` and the gradient norm before clipping, a scalar; both on the device. Where
        any process's loss or the gradient is not finite, no process's norm is, and the step changes
        neither weights nor optimizer nor average: decided on the device, nobody waits for it.
        """
        # Dropout of a step is a pure function of (seed, step, rank): a resumed run draws the same.
        torch.manual_seed(_seed(self.config.seed, step, self.place.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step, progress)
        self.optimizer.zero_grad(set_to_none=True)
        # How far the encoder sees is one of (seed, step): the same on every process.
        generator = torch.Generator().manual_seed(_seed(self.config.seed, step))
        losses = self._differentiate(batch, self.model.encoder.draw_context(generator))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        good = norm.isfinite().float()
        # As torch's GradScaler tells a fused optimizer, on the device, to leave everything as it is.
        self.optimizer.found_inf = 1 - good  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.result is not self.model:
            self._average(step, good)
        return losses, norm

    def check_memory(self, batch: Batch) -> None:
        """Compute a batch's gradients on this process alone, and forget them: does the memory hold?

        Everything is as in a step that sees as much as a step may see, but nothing is changed and no
        random number drawn. Raises TrainingError where the memory does not hold it.
        """
        contexts: list[Context | None] = [None]
        encoder = self.model.encoder.config
        if encoder.kind == "latency_controlled":  # the shortest chunk is read with the most overlap
            contexts.append(Context(encoder.chunk[0], encoder.right[1]))
        parameters = list(self.model.parameters())
        # What the optimizer will have made at its first step.
        moments = [] if self.optimizer.state else [torch.empty_like(p) for p in parameters * 2]
        devices = [self.place.device] if self.place.device.type == "cuda" else []
        self.model.train()
        with torch.random.fork_rng(devices):
            for context in contexts:
                self._differentiate(batch, context, alone=True)
                self.optimizer.zero_grad(set_to_none=True)
        del moments

    def _differentiate(self, batch: Batch, context: Context | None, alone: bool = False) -> Tensor:
        """Add the gradients of this process's share, micro-batch by micro-batch; returns `losses`.

        Those of all processes are summed once, with the last micro-batch, unless `alone`. Raises
        TrainingError where the memory does not hold a micro-batch.
        """
        parts = split(batch, self.config.accumulate)
        found = []
        # Gradients of a loss per character vanish in float16, those of a loss per batch do not.
        scale = batch.symbols if self.half else 1
        for number, part in enumerate(parts, start=1):
            waits = alone or number < len(parts)
            with self._without_sum() if waits else contextlib.nullcontext(), self._fitting(part):
                losses = self.losses(part, context)
                loss = losses.sum()
                # DistributedDataParallel averages the gradients over processes; the loss is their
                # sum. A loss that is not finite, times 0, is not a number, and so is then every
                # process's gradient.
                torch.autograd.backward(loss, loss.detach() * 0 + self.place.processes * scale)
            found.append(losses.detach())
        if scale != 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_div_(gradients, scale)
        return torch.cat(found)

    def _without_sum(self) -> contextlib.AbstractContextManager[None]:
        """Within it gradients stay on their process."""
        if isinstance(self._parallel, DistributedDataParallel):
            return self._parallel.no_sync()
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _fitting(self, part: Batch) -> Iterator[None]:
        """Turns a want of memory within it into a TrainingError."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"{len(part.ids)} utterance(s) of {part.features.shape[1]} feature frames, a part of "
                f"the batch, do not fit into the memory of {self.place.device}; lower "
                f"training.batch_seconds (now {self.config.batch_seconds:g}), or raise "
                f"training.accumulate (now {self.config.accumulate}) for smaller parts."
            ) from error

    @torch.no_grad()
    def _average(self, step: int, good: Tensor) -> None:
        """Move the averaged weights towards the new ones; not at all where `good`, a scalar, is 0."""
        averages: list[Tensor] = list(self.result.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        # The rate is a tensor, so nobody waits for it; a difference, a product and a sum would pass
        # over the weights three times.
        rate = good * (1 - average_decay(step, self.config.average_decay))
        torch._foreach_lerp_(averages, weights, [rate] * len(weights))

    def losses(self, batch: Batch, context: Context | None = None) -> Tensor:
        """The CTC loss of each of this process's utterances, divided by the whole batch's characters.

        (B,) on the device; (1,) zero where B = 0. Their sum over all processes is the loss. `context`
        is how far a latency-controlled encoder sees. Of a batch with second views it is the mean of
        both losses, plus `consistency` times what `consistency_loss` finds.
        """
        device = self.place.device
        if not batch.ids:  # a small batch among many processes: take part, adding nothing
            frame = torch.zeros(1, 1, self.model.features.config.mels, device=device)
            nothing: Emissions = self._parallel(
                frame, torch.ones(1, dtype=torch.int64, device=device)
            )
            return nothing.log_probs.sum(dim=(1, 2)) * 0
        views = [batch.features] if batch.second is None else [batch.features, batch.second]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            emissions: Emissions = self._parallel(
                torch.cat(views).to(device),
                batch.feature_lengths.repeat(len(views)).to(device),
                context,
            )
        # CTC wants lengths on the CPU; fetching the model's own would wait for the GPU at every step.
        lengths = -(-batch.feature_lengths // self.model.encoder.config.stack)
        heard = emissions.log_probs.chunk(len(views))  # (B, T', V) each
        losses = torch.stack([ctc_losses(log_probs, lengths, batch) for log_probs in heard]).mean(0)
        if len(heard) == 2:
            losses = losses + self.config.consistency * consistency_loss(*heard, lengths)
        return losses / batch.symbols


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch cut by utterances into `parts` batches, in its order, or into one for each utterance.

    They are as equal as can be, padded no more than each needs, and `symbols` stays the whole's.
    """
    count = len(batch.ids)
    parts = max(1, min(parts, count))
    if parts == 1:
        return [batch]
    cut = []
    for start, end in pairwise(count * part // parts for part in range(parts + 1)):
        frames = int(batch.feature_lengths[start:end].max())
        symbols = int(batch.target_lengths[start:end].max())
        cut.append(
            replace(
                batch,
                features=batch.features[start:end, :frames],
                feature_lengths=batch.feature_lengths[start:end],
                targets=batch.targets[start:end, :symbols],
                target_lengths=batch.target_lengths[start:end],
                ids=batch.ids[start:end],
                second=None if batch.second is None else batch.second[start:end, :frames],
            )
        )
    return cut


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left for a tensor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Torch on a CPU, and the libraries of a GPU (CUDNN_STATUS_ALLOC_FAILED).
    return any(words in str(error).lower() for words in ("allocate memory", "alloc_failed"))


def _seed(*parts: int) -> int:
    """A 63-bit seed that is a pure function of some integers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
