"""One optimization step: forward, CTC, backward, clipping, AdamW, average of the weights."""

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from asr.data.loading import Batch
from asr.encoder import Context
from asr.errors import TrainingError
from asr.model import AcousticModel, Emissions
from asr.runtime.distributed import Process, broadcast_weights, sum_gradients
from asr.training.config import TrainingConfig
from asr.training.loss import average_decay, consistency_loss, ctc_losses
from asr.training.optimizer import AdamW


class Trainer:
    """One training step: forward, CTC, backward, clipping, AdamW, the average of the weights.

    The loss is summed over the utterances of all processes and divided by the number of characters
    in the batch, so that it does not depend on how the batch is divided among the processes.
    `result` is the model that is validated and saved: it has the averaged weights, or is `model`
    itself if the weights are not averaged.
    """

    def __init__(self, model: AcousticModel, config: TrainingConfig, process: Process) -> None:
        self.config = config
        self.process = process
        self.model = model.to(process.device)
        if process.world_size > 1:
            broadcast_weights(self.model.parameters())
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and has_bf16(process.device)
        )
        self.half = self.bf16 and process.device.type == "cuda"  # recurrent layers in float16
        parameters = list(self.model.parameters())
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = AdamW(groups, lr=config.learning_rate, fused=True)
        self.result = self.model
        if config.average_decay:
            # Moving it to the device where it already is lays its weights out as cuDNN expects.
            self.result = copy.deepcopy(self.model).requires_grad_(False).to(process.device)

    def learning_rate(self, step: int, progress: float) -> float:
        """The rate of `step` (from 0) at `progress` in [0, 1]: a linear warm-up times a half cosine."""
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))

    def step(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """Train on this process's share of a batch.

        Returns the `losses` (B,) and the gradient norm before clipping, a scalar; both on the device.
        If the gradient or the loss of any process is not finite, the norm is not finite on any
        process, and the step changes neither weights nor optimizer nor average. This is decided on
        the device, without synchronizing with the host.
        """
        # The dropout of a step is a pure function of (seed, step, rank), so a resumed run repeats it.
        torch.manual_seed(_seed(self.config.seed, step, self.process.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step, progress)
        self.optimizer.zero_grad(set_to_none=True)
        # The encoder's context is a function of (seed, step), the same on every process.
        generator = torch.Generator().manual_seed(_seed(self.config.seed, step))
        losses = self._differentiate(batch, self.model.encoder.draw_context(generator))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        good = norm.isfinite().float()
        # GradScaler uses this flag to make a fused optimizer skip a step without synchronization.
        self.optimizer.found_inf = 1 - good  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.result is not self.model:
            self._average(step, good)
        return losses, norm

    def check_memory(self, batch: Batch) -> None:
        """Compute the gradients of a batch on this process alone, and discard them.

        The largest contexts of a step are tried; weights, optimizer and random state stay the same.
        Raises TrainingError if the batch does not fit into memory.
        """
        contexts: list[Context | None] = [None]
        encoder = self.model.encoder.config
        if encoder.kind == "latency_controlled":  # the shortest chunk has the most overlap
            contexts.append(Context(encoder.chunk[0], encoder.right[1]))
        parameters = list(self.model.parameters())
        # Takes the place of the moments that the optimizer allocates in its first step.
        moments = [] if self.optimizer.state else [torch.empty_like(p) for p in parameters * 2]
        devices = [self.process.device] if self.process.device.type == "cuda" else []
        self.model.train()
        with torch.random.fork_rng(devices):
            for context in contexts:
                self._differentiate(batch, context, alone=True)
                self.optimizer.zero_grad(set_to_none=True)
        del moments

    def _differentiate(self, batch: Batch, context: Context | None, alone: bool = False) -> Tensor:
        """Accumulate the gradients of this process's micro-batches; returns the `losses` (B,).

        Gradients are summed over the processes once, after the last micro-batch, unless `alone`.
        Raises TrainingError if a micro-batch does not fit into memory.
        """
        parts = split(batch, self.config.accumulate)
        found = []
        # In float16 the gradients of a loss per character underflow, but not those per batch.
        scale = batch.symbols if self.half else 1
        for part in parts:
            message = (
                f"{len(part.ids)} utterance(s) of {part.features.shape[1]} feature frames, a part of "
                f"the batch, do not fit into the memory of {self.process.device}; lower "
                f"training.batch_seconds (now {self.config.batch_seconds:g}), or raise "
                f"training.accumulate (now {self.config.accumulate}) for smaller parts"
            )
            with reporting_out_of_memory(message):
                losses = self.losses(part, context)
                loss = losses.sum()
                # A loss that is not finite gives NaN times 0, hence a NaN gradient on every process.
                torch.autograd.backward(loss, loss.detach() * 0 + scale)
            found.append(losses.detach())
        if self.process.world_size > 1 and not alone:
            sum_gradients(self.model.parameters())
        if scale != 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_div_(gradients, scale)
        return torch.cat(found)

    @torch.no_grad()
    def _average(self, step: int, good: Tensor) -> None:
        """Move the averaged weights toward the new ones, unless the scalar `good` is 0."""
        averages: list[Tensor] = list(self.result.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        # The rate stays on the device. Separate difference, product and sum would read the weights
        # three times.
        rate = good * (1 - average_decay(step, self.config.average_decay))
        torch._foreach_lerp_(averages, weights, [rate] * len(weights))

    def losses(self, batch: Batch, context: Context | None = None) -> Tensor:
        """The CTC loss of each of this process's utterances, divided by the whole batch's characters.

        Returns (B,) on the device, or a single zero (1,) if B = 0; the sum over all processes is the
        loss. `context` is how far a latency-controlled encoder sees. With second views, the loss is the
        mean of both CTC losses plus `consistency` times the `consistency_loss`.
        """
        device = self.process.device
        if not batch.ids:  # fewer utterances than processes: take part with a zero loss
            return torch.zeros(1, device=device, requires_grad=True)
        views = [view for view in (batch.features, batch.second_view) if view is not None]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            emissions: Emissions = self.model(
                torch.cat(views).to(device),
                batch.feature_lengths.repeat(len(views)).to(device),
                context,
            )
        # CTC needs lengths on the CPU; copying the model's own would wait for the GPU in every step.
        lengths = -(-batch.feature_lengths // self.model.encoder.config.stack)
        log_probs = emissions.log_probs.chunk(len(views))  # (B, T', V) each
        losses = torch.stack([ctc_losses(view, lengths, batch) for view in log_probs]).mean(0)
        if len(log_probs) == 2:
            losses = losses + self.config.consistency * consistency_loss(*log_probs, lengths)
        return losses / batch.symbols


def has_bf16(device: torch.device) -> bool:
    """Returns whether a device computes faster in bf16 than in float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def split(batch: Batch, parts: int) -> list[Batch]:
    """Divide the utterances of a batch, in order, into at most `parts` batches of about equal size.

    Each is padded only as far as it needs; its `symbols` are still those of the whole batch.
    """
    count, second = len(batch.ids), batch.second_view
    parts = min(parts, count)
    if parts <= 1:
        return [batch]
    pieces = []
    for start, end in pairwise(count * part // parts for part in range(parts + 1)):
        frames = int(batch.feature_lengths[start:end].max())
        symbols = int(batch.target_lengths[start:end].max())
        pieces.append(
            replace(
                batch,
                features=batch.features[start:end, :frames],
                feature_lengths=batch.feature_lengths[start:end],
                targets=batch.targets[start:end, :symbols],
                target_lengths=batch.target_lengths[start:end],
                ids=batch.ids[start:end],
                second_view=None if second is None else second[start:end, :frames],
            )
        )
    return pieces


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that a device or the machine is out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The wording of torch on a CPU, and of GPU libraries (CUDNN_STATUS_ALLOC_FAILED).
    return any(words in str(error).lower() for words in ("allocate memory", "alloc_failed"))


@contextlib.contextmanager
def reporting_out_of_memory(message: str) -> Iterator[None]:
    """A context in which out-of-memory errors become a TrainingError with this message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(message) from error


def _seed(*parts: int) -> int:
    """A 63-bit seed that is a pure function of some integers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
