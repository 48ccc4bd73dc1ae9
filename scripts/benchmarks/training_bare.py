"""The bare rivals of `Trainer.step`: a plain loop of torch's modules, and the LSTMs alone."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import training_bench
from harness import median_ratio
from torch import Tensor, nn
from training_bench import (
    SAME,
    WORKERS,
    Bench,
    Clock,
    cpu_of_descendants,
    read_augment,
    stack_frames,
)

from asr.data.loading import Batch
from asr.encoder import Context, Encoder, EncoderConfig
from asr.errors import ConfigError
from asr.model import AcousticModel
from asr.progress import Bar
from asr.runtime.distributed import Process
from asr.training.config import TrainingConfig
from asr.training.trainer import Trainer

KINDS = ("latency_controlled", "bidirectional")
CONTESTANTS = ("lstms", "bare", "step")


class BareChunked(nn.Module):
    """The layers of a latency-controlled `AcousticModel` as plain torch modules."""

    def __init__(self, config: EncoderConfig, inputs: int, symbols: int) -> None:
        super().__init__()
        hidden, rest = config.hidden, config.layers - 1
        self.ahead = nn.ModuleList(
            nn.LSTM(w, hidden, batch_first=True) for w in [inputs] + [hidden] * rest
        )
        self.back = nn.ModuleList(
            nn.LSTM(w, hidden, batch_first=True) for w in [inputs] + [2 * hidden] * rest
        )
        self.ahead_norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.ahead)
        self.back_norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.back)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * hidden, symbols)

    def forward(self, x: Tensor, lengths: Tensor, context: Context | None) -> Tensor:
        """Log-probabilities (B, T', V) of stacked frames (B, T', stack · F)."""
        rows, frames, _ = x.shape
        chunk, right = (context.chunk, context.right) if context else (frames, 0)
        if chunk > frames:
            chunk, right = frames, 0
        reads = []
        for index, (lstm, norm) in enumerate(zip(self.ahead, self.ahead_norms, strict=True)):
            reads.append(self.dropout(x) if index else x)
            x = norm(lstm(reads[-1])[0])
        begins = torch.arange(0, frames, chunk)
        sizes = (lengths[:, None] - begins).clamp(0, chunk + right).reshape(-1, 1)
        t = torch.arange(chunk + right)
        mirror = torch.where(t < sizes, sizes - 1 - t, t)[:, :, None]
        y = None
        for lstm, norm, read in zip(self.back, self.back_norms, reads, strict=True):
            read = nn.functional.pad(read, (0, 0, 0, len(begins) * chunk + right - frames))
            blocks = read.unfold(1, chunk + right, chunk).flatten(0, 1).transpose(1, 2)
            if y is not None:
                blocks = torch.cat([blocks, self.dropout(y)], dim=-1)
            y = norm(lstm(blocks.gather(1, mirror.expand_as(blocks)))[0])
            y = y.gather(1, mirror.expand_as(y))
        y = y[:, :chunk].reshape(rows, len(begins) * chunk, -1)[:, :frames]
        return torch.log_softmax(self.head(torch.cat([x, y], dim=-1)), dim=-1)  # (B, T', V)

    def load_from(self, model: AcousticModel) -> None:
        """Copy the weights of a model."""
        for index, layer in enumerate(model.encoder.layers):
            for mine, direction in ((self.ahead, layer.ahead), (self.back, layer.back)):
                mine[index].load_state_dict(direction.cell.state_dict())
            self.ahead_norms[index].load_state_dict(layer.ahead.norm.state_dict())
            self.back_norms[index].load_state_dict(layer.back.norm.state_dict())
        self.head.load_state_dict(model.head.state_dict())


class BareBoth(nn.Module):
    """The layers of a bidirectional `AcousticModel` as plain torch modules, which read padding."""

    def __init__(self, config: EncoderConfig, inputs: int, symbols: int) -> None:
        super().__init__()
        both = 2 * config.hidden
        self.recurrent = nn.ModuleList(
            nn.LSTM(w, config.hidden, batch_first=True, bidirectional=True)
            for w in [inputs] + [both] * (config.layers - 1)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(both) for _ in self.recurrent)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(both, symbols)

    def forward(self, x: Tensor, _lengths: Tensor, _context: Context | None) -> Tensor:
        """Log-probabilities (B, T', V) of stacked frames (B, T', stack · F)."""
        for index, (recurrent, norm) in enumerate(zip(self.recurrent, self.norms, strict=True)):
            x = norm(recurrent(self.dropout(x) if index else x)[0])
        return torch.log_softmax(self.head(x), dim=-1)  # (B, T', V)


class BareLoop:
    """A minimal training loop: forward, CTC, backward, clipping and AdamW."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self.clip_norm = config.clip_norm
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss(self, x: Tensor, lengths: Tensor, batch: Batch, context: Context | None) -> Tensor:
        """The loss of a batch, whose stacked frames are `x`."""
        log_probs = self.model(x, lengths, context).transpose(0, 1)
        loss = nn.functional.ctc_loss(
            log_probs, batch.targets, lengths, batch.target_lengths, reduction="sum"
        )
        return loss / batch.symbols

    def step(self, x: Tensor, lengths: Tensor, batch: Batch, context: Context | None) -> None:
        """Train on a batch, whose stacked frames are `x`."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, lengths, batch, context).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()


class LstmsAlone:
    """The nn.LSTM layers of an encoder, each with its own random input."""

    def __init__(self, encoder: Encoder) -> None:
        self.config = encoder.config
        layers = copy.deepcopy(encoder.layers)
        self.ahead = [layer.ahead.cell for layer in layers]
        self.back = [layer.back.cell for layer in layers]

    def prepare(
        self, rows: int, frames: int, context: Context | None
    ) -> list[tuple[nn.Module, Tensor, Tensor]]:
        """Each layer's module, input and gradient of its output, for (B, T') encoder frames."""
        context = context if context and context.chunk <= frames else Context(frames)
        chunks = -(-frames // context.chunk)
        whole = self.config.kind == "bidirectional"
        shape = (rows, frames) if whole else (rows * chunks, context.frames)
        work = []
        for cells, size in ((self.ahead, (rows, frames)), (self.back, shape)):
            for index, cell in enumerate(cells):
                x = torch.randn(*size, cell.input_size, requires_grad=index > 0)
                work.append((cell, x, torch.ones(*size, cell.hidden_size)))
        return work

    def run(self, work: list[tuple[nn.Module, Tensor, Tensor]]) -> None:
        """The forward and backward passes of all layers."""
        for cell, x, gradient in work:
            cell.zero_grad(set_to_none=True)
            cell(x)[0].backward(gradient)


class ContextScript:
    """Fixes the contexts that an encoder draws, so that its rivals can use the same ones."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._draw = encoder.draw_context
        self._number = 0
        self.context: Context | None = None
        # The encoder still draws a context, which takes microseconds, but uses the fixed one.
        encoder.draw_context = self._answer

    def next(self) -> Context | None:
        """Draw the context of the next step."""
        self._number += 1
        self.context = self._draw(torch.Generator().manual_seed(self._number))
        return self.context

    def _answer(self, generator: torch.Generator) -> Context | None:
        self._draw(generator)
        return self.context


@dataclass
class Turn:
    """The measurements of one round.

    Attributes:
        clocks: the CPU time of each contestant and of taking batches from the loader.
        ids: the utterances of all batches.
        steps: context and CPU seconds of each step.
        workers: CPU seconds of the loader's workers.
    """

    clocks: dict[str, Clock] = field(
        default_factory=lambda: {name: Clock() for name in (*CONTESTANTS, "loading")}
    )
    ids: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    workers: float = 0.0


class Steps:
    """The LSTMs alone, the bare loop and our step on the same batches, in turn."""

    def __init__(self, bench: Bench, kind: str) -> None:
        self.bench = bench
        model = bench.model(kind=kind)
        config, self.stack = model.encoder.config, bench.encoder.stack
        layers = BareChunked if kind == "latency_controlled" else BareBoth
        bare_model = layers(config, self.stack * bench.features.mels, len(bench.vocabulary))
        self.bare = BareLoop(bare_model, bench.training)
        self.alone = LstmsAlone(model.encoder)
        self.trainer = Trainer(model, bench.training, Process(0, 1, torch.device("cpu")))
        self.script = ContextScript(model.encoder)
        self.number = 0  # steps so far

    def run_round(self, batches: Iterator[Batch], pipeline: bool) -> Turn:
        """Train on the batches of a round; `pipeline` waits for the workers before it ends."""
        training_bench.settle()  # the workers have loaded as far ahead as they do at the end
        turn, before = Turn(), cpu_of_descendants()
        for _ in range(self.bench.batches):
            with turn.clocks["loading"]:
                batch = next(batches)
            turn.ids += batch.ids
            turn.steps.append(self._run_step(batch, turn.clocks))
        if pipeline:
            training_bench.settle()
        turn.workers = cpu_of_descendants() - before
        return turn

    def _run_step(self, batch: Batch, clocks: dict[str, Clock]) -> dict[str, Any]:
        """Run all contestants on a batch, in an order that rotates with the steps."""
        context = self.script.next()
        x, lengths = stack_frames(batch, self.stack)
        tensors = self.alone.prepare(len(x), x.shape[1], context)
        work: dict[str, Callable[[], Any]] = {
            "lstms": lambda: self.alone.run(tensors),
            "bare": lambda: self.bare.step(x, lengths, batch, context),
            "step": lambda: self.trainer.step(batch, self.number, 0.0),
        }
        spent: dict[str, Any] = {}
        for place in range(len(CONTESTANTS)):
            name = CONTESTANTS[(place + self.number) % len(CONTESTANTS)]
            before = clocks[name].cpu
            with clocks[name]:
                work[name]()
            spent[name] = clocks[name].cpu - before
        self.number += 1
        return {"context": context and asdict(context), **spent}


def measure_steps(bench: Bench, kind: str, pipeline: bool) -> dict[str, Any]:
    """The cost of the LSTMs alone, the bare loop, our step and, if asked, the whole pipeline."""
    steps = Steps(bench, kind)
    turns: list[Turn] = []
    batches = bench.load(steps.trainer.model, read_augment("standard"), WORKERS)
    with contextlib.closing(batches), Bar(f"Steps, {kind}", bench.rounds + 1, "rounds") as bar:
        first = next(batches)
        if isinstance(steps.bare.model, BareChunked):
            check_same(steps.bare.model, steps.bare, steps.trainer, steps.script, first)
        for _ in range(bench.rounds + 1):
            turns.append(steps.run_round(batches, pipeline))
            bar.advance()
    turns = turns[1:]  # the first round warms up
    audio = [bench.audio(turn.ids) for turn in turns]
    cost = {name: [turn.clocks[name].cpu for turn in turns] for name in CONTESTANTS}
    if pipeline:
        cost["pipeline"] = [
            turn.clocks["step"].cpu + turn.clocks["loading"].cpu + turn.workers for turn in turns
        ]
    figures: dict[str, Any] = {
        name: {
            "ms_per_second": 1000 * median_ratio(values, audio),
            "to_bare": median_ratio(values, cost["bare"]),
            "to_lstms": median_ratio(values, cost["lstms"]),
            "of_rounds": [a / b for a, b in zip(values, cost["bare"], strict=True)],
        }
        for name, values in cost.items()
    }
    if pipeline:
        loading = [turn.clocks["loading"].cpu for turn in turns]
        figures["pipeline"]["workers"] = 1000 * median_ratio([t.workers for t in turns], audio)
        figures["pipeline"]["loading"] = 1000 * median_ratio(loading, audio)
    return {**figures, "steps": [step for turn in turns for step in turn.steps]}


def check_same(
    bare_model: BareChunked, bare: BareLoop, trainer: Trainer, script: ContextScript, batch: Batch
) -> None:
    """Raise ConfigError if the bare loop does not compute the model's loss."""
    bare_model.load_from(trainer.model)
    x, lengths = stack_frames(batch, trainer.model.encoder.config.stack)
    contexts = [None, *(script.next() for _ in range(8))]
    trainer.model.eval()
    bare_model.eval()
    with torch.no_grad():
        for context in contexts:
            theirs = float(bare.loss(x, lengths, batch, context))
            ours = float(trainer.losses(batch, context).sum())
            if not math.isclose(ours, theirs, rel_tol=SAME):
                raise ConfigError(
                    f"the bare loop's loss is {theirs} and the model's {ours} with {context}; "
                    "they do not compute the same, so their times cannot be compared"
                )
    trainer.model.train()
    bare_model.train()
