"""Compare the LSTM with the plain recurrent network at equal parameters and training time.

    python recipes/digits/compare.py        # needs data/digits (prepare.py)

Both networks have two bidirectional layers and nearly the same number of parameters. Every run trains
for the same CPU time on one thread, on features in memory, with a learning rate that reaches zero at
the end. The best of three learning rates is chosen for each network on the dev voices with the first
seed; then all seeds are run at that rate and scored on the test voices. The second figure explains
the difference: it shows how much the last state of the first forward layer depends on the input a
number of frames earlier, before and after training.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from asr.audio.waveform import load_audio
from asr.data.augment import AugmentConfig, Augmenter, random_generator
from asr.data.loading import Batch, Example, collate
from asr.data.manifest import Utterance, read_manifest
from asr.data.planning import Planner
from asr.decoder.greedy import GreedyDecoder
from asr.encoder import EncoderConfig
from asr.errors import EXIT_CODE, AsrError
from asr.features import FeaturesConfig, LogMel
from asr.files import write_atomically
from asr.model import AcousticModel
from asr.progress import complain, say, track
from asr.runtime.distributed import Process
from asr.scoring import score
from asr.text import Vocabulary
from asr.training.config import TrainingConfig
from asr.training.trainer import Trainer

VOCABULARY = Vocabulary.english()
FEATURES = FeaturesConfig(mels=40)
LSTM = EncoderConfig("bidirectional", cell="lstm", layers=2, hidden=128, stack=3, dropout=0.1)
RATES = (5e-4, 1.5e-3, 4e-3)
SEEDS = (1, 2, 3)
# Number of lags in the figure of gradients, in encoder frames of 30 ms.
LAGS = 60
# Number of utterances from which the figure of gradients is computed.
PROBED = 40


@dataclass(frozen=True)
class Job:
    """The settings of one run."""

    cell: str
    rate: float
    seed: int
    seconds: float
    data: Path


@dataclass(frozen=True)
class Result:
    """The result of a run: WER as fractions, and the gradient's norm by lag before and after."""

    job: Job
    parameters: int
    steps: int
    dev_wer: float
    test_wer: float
    gradients_before: list[float]
    gradients_after: list[float]


def encoder_of(cell: str) -> EncoderConfig:
    """The encoder's configuration; a plain network is as wide as the LSTM's parameters allow."""
    if cell == "lstm":
        return LSTM
    target = count(LSTM)
    widths = range(LSTM.hidden, 4 * LSTM.hidden)
    return min(
        (replace(LSTM, cell=cell, hidden=width) for width in widths),
        key=lambda config: abs(count(config) - target),
    )


def count(config: EncoderConfig) -> int:
    """Number of parameters of a model."""
    with torch.device("meta"):
        model = AcousticModel(FEATURES, config, len(VOCABULARY))
    return sum(parameter.numel() for parameter in model.parameters())


def read_features(data: Path, name: str) -> tuple[list[Utterance], list[torch.Tensor]]:
    """A set's utterances and their features (T, F), normalized by the training set; cached."""
    utterances = read_manifest(data / f"{name}.jsonl")
    cache = data / f"{name}-features-{FEATURES.mels}.pt"
    if not cache.exists():
        log_mel = LogMel(FEATURES)
        if name != "train":
            state = torch.load(data / f"train-normalization-{FEATURES.mels}.pt", weights_only=True)
            log_mel.load_state_dict(state)
        else:
            log_mel.fit_normalization(
                load_audio(u.audio) for u in track(utterances[::5], "Measuring")
            )
            save(log_mel.state_dict(), data / f"train-normalization-{FEATURES.mels}.pt")
        save(
            [log_mel(torch.from_numpy(load_audio(u.audio))) for u in track(utterances, name)],
            cache,
        )
    return utterances, torch.load(cache, weights_only=True)


def save(value: object, path: Path) -> None:
    write_atomically(path, lambda file: torch.save(value, file))


def batches_of(
    utterances: Sequence[Utterance], features: Sequence[torch.Tensor], seed: int
) -> Iterator[Batch]:
    """Endless training batches, with masks, shift and tempo drawn in every epoch."""
    augment = AugmentConfig(
        speeds=[1.0], mel_shift=2.0, tempo=0.1, time_mask_frames=15, mel_mask_bins=8
    )
    planner = Planner(
        [u.seconds for u in utterances], [u.id for u in utterances], 40.0, augment, seed
    )
    augmenter = Augmenter(augment, FEATURES.sample_rate)
    targets = [torch.tensor(VOCABULARY.encode(u.text, u.id)) for u in utterances]
    epoch = 0
    while True:
        plan = planner.epoch(epoch)
        for indices in plan.batches:
            examples = []
            for i in indices:
                generator = random_generator(seed, epoch, utterances[i].id, "features")
                found = features[i].numpy()
                augmented = augmenter.augment_features(found, generator, plan.timing(i))
                examples.append(Example(utterances[i].id, torch.from_numpy(augmented), targets[i]))
            yield collate(examples, FEATURES.mels, sum(len(e.target) for e in examples))
        epoch += 1


def run(job: Job) -> Result:
    """Train one network for the job's CPU seconds on one thread, and score it."""
    torch.set_num_threads(1)
    utterances, features = read_features(job.data, "train")
    torch.manual_seed(job.seed)
    model = AcousticModel(FEATURES, encoder_of(job.cell), len(VOCABULARY))
    probes = features[:: len(features) // PROBED][:PROBED]
    before = gradient_by_lag(model, probes)
    config = TrainingConfig(learning_rate=job.rate, warmup_steps=100, seed=job.seed)
    trainer = Trainer(model, config, Process(0, 1, torch.device("cpu")))
    model.train()
    used, steps = 0.0, 0
    for batch in batches_of(utterances, features, job.seed):
        start = time.thread_time()
        trainer.step(batch, steps, used / job.seconds)
        used += time.thread_time() - start
        steps += 1
        if used >= job.seconds:
            break
    model.eval()
    return Result(
        job,
        sum(p.numel() for p in model.parameters()),
        steps,
        error_rate(model, *read_features(job.data, "dev")),
        error_rate(model, *read_features(job.data, "test")),
        before,
        gradient_by_lag(model, probes),
    )


@torch.inference_mode()
def error_rate(
    model: AcousticModel, utterances: Sequence[Utterance], features: Sequence[torch.Tensor]
) -> float:
    """The greedy WER of a model on utterances, whose features are (T, F)."""
    decoder = GreedyDecoder(VOCABULARY, model.frame_seconds)
    texts = {}
    for utterance, frames in zip(utterances, features, strict=True):
        log_probs = model(frames[None], torch.tensor([len(frames)])).log_probs[0]
        texts[utterance.id] = decoder.decode(log_probs).text
    return score({u.id: u.text for u in utterances}, texts).wer


def gradient_by_lag(model: AcousticModel, features: Sequence[torch.Tensor]) -> list[float]:
    """Median over utterances of |d(v·h_T) / d x_(T-lag)| for lag 0, 1, ..., relative to lag 0.

    h_T is the last output of the first forward layer, x are its input frames, v is a random vector.
    """
    layer = model.encoder.layers[0].ahead.cell
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(layer.hidden_size, generator=generator)
    norms = []
    for frames in features:
        stack = model.encoder.config.stack
        x = frames[: len(frames) // stack * stack].reshape(1, -1, stack * FEATURES.mels)
        if x.shape[1] < LAGS:
            continue
        x = x.clone().requires_grad_()
        (layer(x)[0][0, -1] @ direction).backward()
        norm = x.grad[0].norm(dim=1).flip(0)[:LAGS]  # (LAGS,)
        norms.append(norm / norm[0])
    return torch.stack(norms).median(dim=0).values.tolist()


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the test WER of every run (left) and the gradient's norm against the lag (right)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (errors, gradients) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    names = {"lstm": "LSTM", "rnn": "plain RNN"}
    for color, cell in zip(("tab:blue", "tab:orange"), names, strict=True):
        mine = [r for r in results if r.job.cell == cell]
        label = names[cell]
        errors.plot([label] * len(mine), [100 * r.test_wer for r in mine], "o", color=color)
        milliseconds = np.arange(LAGS) * FEATURES.hop_ms * LSTM.stack
        for style, when in (("--", "before"), ("-", "after")):
            curves = np.array([getattr(r, f"gradients_{when}") for r in mine])
            gradients.plot(
                milliseconds, curves.mean(0), style, color=color, label=f"{label}, {when} training"
            )
            gradients.fill_between(
                milliseconds, curves.min(0), curves.max(0), color=color, alpha=0.15
            )
    errors.set(
        title="WER on unseen voices in %, one dot per seed", ylim=(0, None), xlim=(-0.5, 1.5)
    )
    gradients.set(
        title="dependence of the state on past input",
        xlabel="lag in ms",
        ylabel="gradient norm, relative to lag 0",
        yscale="log",
    )
    gradients.legend()
    for axis in (errors, gradients):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def compare(options: argparse.Namespace) -> None:
    """Run all jobs, print the table and write the figures."""
    for name in ("train", "dev", "test"):
        read_features(options.data, name)  # fill the cache before the processes start
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawn) as pool:
        search = [
            Job(cell, rate, SEEDS[0], options.seconds, options.data)
            for rate in RATES
            for cell in ("lstm", "rnn")
        ]
        found = list(track(pool.map(run, search), "Learning rates", len(search)))
        best = {
            cell: min((r for r in found if r.job.cell == cell), key=lambda r: r.dev_wer)
            for cell in ("lstm", "rnn")
        }
        rest = [replace(best[c].job, seed=seed) for seed in SEEDS[1:] for c in ("lstm", "rnn")]
        final = [*best.values(), *track(pool.map(run, rest), "Seeds", len(rest))]

    say(f"{options.seconds:g} s of CPU time per run, one thread; WER in %")
    say(
        "network  parameters  steps   " + "  ".join(f"dev at {rate:g}" for rate in RATES) + "  test"
    )
    for cell in ("lstm", "rnn"):
        rates = [100 * r.dev_wer for r in found if r.job.cell == cell]
        tests = [100 * r.test_wer for r in final if r.job.cell == cell]
        say(
            f"{cell:7}  {best[cell].parameters:10,}  {best[cell].steps:5}   "
            + "  ".join(
                f"{wer:{len(f'dev at {rate:g}')}.1f}"
                for rate, wer in zip(RATES, rates, strict=True)
            )
            + f"  {statistics.mean(tests):.1f} ± {statistics.stdev(tests):.1f}"
            + f" ({', '.join(f'{wer:.1f}' for wer in tests)})"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    draw(final, options.folder / "compare.png")
    lines = [
        json.dumps({"cell": r.job.cell, "rate": r.job.rate, "seed": r.job.seed, "steps": r.steps,
                    "parameters": r.parameters, "dev_wer": r.dev_wer, "test_wer": r.test_wer})
        for r in [*found, *final[2:]]
    ]  # fmt: skip
    (options.folder / "compare.jsonl").write_text("\n".join(lines) + "\n")
    say(f"Figures: {options.folder / 'compare.png'}; runs: {options.folder / 'compare.jsonl'}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/digits"), help="the corpus (%(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/digits-compare"),
        help="folder of the results (%(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="CPU time of a run (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, help="concurrent runs (%(default)s)")
    options = parser.parse_args()
    try:
        compare(options)
    except AsrError as error:
        complain(f"compare.py: {str(error).removesuffix('.')}.")
        return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
