"""How many live streams this machine holds, and what reading them together saves.

    python scripts/benchmark_streaming.py                       random weights, made-up sound
    python scripts/benchmark_streaming.py --checkpoint runs/english/best.pt \
        --manifest data/english/dev.jsonl --lm data/english/language-model.lm

Three things are measured at each latency:

- together: CPU time of 16 streams through `advance_streams`, against the same pieces through 16 times
  `Stream.accept`, on one thread and in turn, so that a noisy machine is as noisy to each. In every
  round pocketsphinx 5 hears one of the streams in the same pieces, in an environment of its own that
  is built on first use. Figures are medians over the rounds; a ratio is the median of the rounds'.
- live: every stream gets a piece of 100 ms every 100 ms by the clock; streams begin at all phases of
  a chunk. One process of one thread for each core serves its share of the streams: at every tick it
  gives all pieces that came to `advance_streams`. The latency of a chunk is when its partial is out
  minus when the piece that completes it came: what is added to the algorithm's own wait.
- the most streams of which 99 % of the chunks are out within 300 ms without a backlog that grows,
  found by doubling and halving.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals import Worker, WorkerError, build_environment

from asr.audio.waveform import load_audio
from asr.checkpoint import Checkpoint
from asr.data.manifest import read_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import EXIT_CODE, AsrError, ConfigError
from asr.features import FeaturesConfig
from asr.files import write_atomically
from asr.model import AcousticModel
from asr.progress import Bar, complain, say
from asr.recognizer import Recognizer
from asr.stream import Partial, Stream, advance_streams
from asr.text import Vocabulary

ROOT = Path(__file__).resolve().parent.parent
RIVAL, RIVAL_RATE = "pocketsphinx", 16_000
PACKAGES = ("pocketsphinx>=5,<6", "numpy")
PIECE_SECONDS = 0.1
TICK_SECONDS = 0.05
TOGETHER = 16
LIMIT_SECONDS = 0.3  # 99 % of the chunks must be out by then
GROWTH_SECONDS = 0.05  # by which the second half of a run may be later than the first, in the mean
WARM_SECONDS = 2.0  # at the beginning of a run, not counted
POOL_SECONDS = 120  # of different sound; the streams begin at different places of it
RESOLUTION = 0.04  # where the search for the most streams ends


@dataclass(frozen=True)
class Setup:
    """Who listens, in every process."""

    checkpoint: Path | None
    decoder: DecoderConfig

    def load(self) -> Recognizer:
        """The recognizer, on one thread; without a checkpoint, of random weights."""
        torch.set_num_threads(1)
        if self.checkpoint:
            checkpoint = Checkpoint.read(self.checkpoint)
            model, vocabulary = checkpoint.model(), checkpoint.vocabulary
        else:
            torch.manual_seed(0)
            vocabulary = Vocabulary.english()
            model = AcousticModel(FeaturesConfig(), EncoderConfig(), len(vocabulary))
        return Recognizer(model, vocabulary, self.decoder)


@dataclass(frozen=True)
class Run:
    """What one live run showed."""

    streams: int
    p50: float  # seconds beyond the algorithm's latency
    p99: float
    growth: float  # seconds by which the second half was later
    busy: float  # share of the processes' time that was CPU time

    @property
    def holds(self) -> bool:
        return self.p99 <= LIMIT_SECONDS and self.growth <= GROWTH_SECONDS


def main() -> int:
    options = parse_options()
    try:
        run(options)
    except AsrError as error:
        complain(f"benchmark_streaming.py: {error}")
        return EXIT_CODE
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, help="(default: 3x256 cells, random weights)")
    parser.add_argument("--lm", type=Path, help="language model: a beam decoder is measured too")
    parser.add_argument("--manifest", type=Path, help="speech to hear (default: made-up sound)")
    parser.add_argument("--latencies", type=float, nargs="+", default=[640, 320], metavar="MS")
    parser.add_argument("--cores", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--seconds", type=float, default=12, help="of a live run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=20, help="of each stream in a round")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--environments", type=Path, default=ROOT / ".benchmark")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--picture", type=Path, help="also draw latency against streams")
    options = parser.parse_args()
    if options.lm and not options.checkpoint:
        parser.error("--lm needs --checkpoint: random weights say nothing that it could judge")
    if min(options.cores, options.rounds) < 1:
        parser.error("--cores and --rounds must be at least 1")
    if options.seconds < 3 * WARM_SECONDS or options.round_seconds < 1:
        parser.error(f"--seconds must be {3 * WARM_SECONDS:g} or more, --round-seconds 1 or more")
    return options


def run(options: argparse.Namespace) -> None:
    setups = {"greedy": Setup(options.checkpoint, DecoderConfig())}
    if options.lm:
        config = replace(Checkpoint.read(options.checkpoint).decoder, kind="beam")
        setups["beam"] = Setup(options.checkpoint, replace(config, language_model=str(options.lm)))
    points: list[dict[str, Any]] = []
    report_conditions(options)
    for name, setup in setups.items():
        recognizer = setup.load()
        rate = recognizer.sample_rate
        pool = make_pool(options.manifest, rate)
        signals = cut(pool, TOGETHER, int(options.round_seconds * rate))
        with ExitStack() as stack:
            rival = None
            if not options.no_rival and not points and rate == RIVAL_RATE:
                rival = stack.enter_context(
                    start_rival(options.environments, signals, _piece(rate))
                )
            workers = stack.enter_context(start_workers(setup, pool, options.cores))
            for latency_ms in options.latencies:
                before = os.getloadavg()[0]
                costs = measure_together(recognizer, signals, latency_ms, rival, options.rounds)
                expected = 1000 * options.cores / costs["together"]
                runs = find_most(
                    partial(run_live, workers, latency_ms, seconds=options.seconds),
                    max(1, int(expected / 2)),
                    f"{latency_ms:g} ms, {name}, live",
                )
                held = [vars(run) for run in runs if run.holds]
                point = {
                    "decoder": name,
                    "latency_ms": latency_ms,
                    **costs,
                    "most": held[-1] if held else None,
                    "runs": [vars(run) for run in runs],
                    "load": (before, os.getloadavg()[0]),
                }
                if rival:
                    point["version"] = rival.hello["version"]
                points.append(point)
                report(point)
    if options.json:
        text = json.dumps({"command": sys.argv, "points": points}, indent=2) + "\n"
        write_atomically(options.json, lambda file: file.write(text.encode()))
    if options.picture:
        draw(points, options.picture)


# ---- Sound --------------------------------------------------------------------------------------


def make_pool(manifest: Path | None, rate: int) -> np.ndarray:
    """Sound (N,) int16 that the streams take turns to hear: speech, or noise of changing loudness."""
    samples = POOL_SECONDS * rate
    if manifest is None:
        generator = np.random.default_rng(0)
        loudness = np.repeat(generator.uniform(0, 0.2, samples // (rate // 10)), rate // 10)
        noise = np.sin(np.cumsum(generator.normal(0.1, 0.3, len(loudness))))
        return (32_767 * loudness * noise).astype(np.int16)
    parts: list[np.ndarray] = []
    for utterance in read_manifest(manifest):
        parts.append(load_audio(utterance.audio, rate))
        if sum(map(len, parts)) >= samples:
            break
    speech = np.concatenate(parts)
    if len(speech) < 10 * rate:
        raise ConfigError(f"{manifest} holds less than 10 s of speech; name a larger manifest.")
    scaled: np.ndarray = (32_767 * np.clip(speech, -1, 1)).astype(np.int16)
    return scaled


def cut(pool: np.ndarray, streams: int, samples: int) -> np.ndarray:
    """What each stream hears (streams, samples): the pool, from evenly spread places of it."""
    begin = np.arange(streams)[:, None] * len(pool) // streams
    signals: np.ndarray = pool[(begin + np.arange(samples)) % len(pool)]
    return signals


# ---- Together against one by one ----------------------------------------------------------------


@contextmanager
def start_rival(environments: Path, signals: np.ndarray, piece: int) -> Iterator[Worker | None]:
    """The rival, ready for these signals (streams, N); None, and the reason printed, without it."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npy"
        np.save(samples, signals)
        try:
            python = build_environment(environments / RIVAL, PACKAGES)
            script = Path(__file__).with_name(f"{Path(__file__).stem}_rival.py")
            command = [str(python), str(script), str(samples), str(piece)]
            rival = Worker(command, Path(folder) / f"{RIVAL}.log")
        except WorkerError as error:
            complain(f"{RIVAL} is left out: {error}")
            yield None
            return
        try:
            yield rival
        finally:
            rival.close()


def measure_together(
    recognizer: Recognizer,
    signals: np.ndarray,
    latency_ms: float,
    rival: Worker | None,
    rounds: int,
) -> dict[str, float]:
    """Medians of CPU milliseconds per second of audio, and of the rounds' ratios.

    The streams hear signals (streams, N), together and one by one; the rival hears one of them.
    """
    rate = recognizer.sample_rate
    pieces = np.split(signals, range(_piece(rate), signals.shape[1], _piece(rate)), axis=1)
    seconds = signals.shape[1] / rate

    def together(streams: Sequence[Stream]) -> None:
        for piece in pieces:
            for answer in advance_streams(streams, list(piece), rate):
                assert isinstance(answer, Partial)

    def one_by_one(streams: Sequence[Stream]) -> None:
        for piece in pieces:
            for stream, samples in zip(streams, piece, strict=True):
                stream.accept(samples, rate)

    ways: dict[str, Callable[[Sequence[Stream]], None]] = {
        "together": together,
        "one_by_one": one_by_one,
    }
    found: list[dict[str, float]] = []
    with Bar(f"{latency_ms:g} ms, {len(signals)} streams together", rounds + 1, "rounds") as bar:
        for number in range(rounds + 1):  # the first warms up
            ms = {}
            for name in sorted(ways, reverse=bool(number % 2)):
                streams = [recognizer.stream(latency_ms) for _ in signals]
                start = time.thread_time()
                ways[name](streams)
                ms[name] = 1000 * (time.thread_time() - start) / (seconds * len(signals))
            if rival:
                ms[RIVAL] = 1000 * rival.ask(number % len(signals))["cpu_seconds"] / seconds
            found.append(ms)
            bar.advance()
    result = {name: statistics.median(ms[name] for ms in found[1:]) for name in found[0]}
    for name in set(found[0]) - {"together"}:
        result[f"{name}_ratio"] = statistics.median(ms[name] / ms["together"] for ms in found[1:])
    return result


def _piece(rate: int) -> int:
    """Samples of a piece."""
    return round(PIECE_SECONDS * rate)


# ---- Live ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """A live run, as each process is told of it: it serves streams `first`, `first + step`, ..."""

    latency_ms: float
    streams: int
    first: int
    step: int
    start: float  # on the monotonic clock, which all processes share
    seconds: float


def serve(connection: Connection, setup: Setup, pool: np.ndarray) -> None:
    """A process: answer orders with each chunk's arrival and latency (chunks, 2), and CPU seconds."""
    recognizer = setup.load()
    listen_live(recognizer, pool, Order(640, 2, 0, 1, time.monotonic(), WARM_SECONDS))
    connection.send("ready")
    while order := connection.recv():
        before = time.process_time()
        chunks = listen_live(recognizer, pool, order)
        connection.send((chunks, time.process_time() - before))


def listen_live(recognizer: Recognizer, pool: np.ndarray, order: Order) -> np.ndarray:
    """Serve live streams to the end of the run: (chunks, 2) seconds, see `serve`."""
    rate = recognizer.sample_rate
    piece = _piece(rate)
    numbers = range(order.first, order.streams, order.step)
    streams = [recognizer.stream(order.latency_ms) for _ in numbers]
    sound = np.resize(pool, len(pool) + int((order.seconds + 1) * rate))
    places = [number * len(pool) // order.streams for number in numbers]
    context = recognizer.model.context(order.latency_ms)
    chunk_seconds = context.chunk * recognizer.model.frame_seconds
    starts = [order.start + chunk_seconds * number / order.streams for number in numbers]
    given = [0] * len(streams)  # pieces
    completing = complete_chunks(recognizer.model, order.latency_ms, piece, order.seconds)
    said = [0] * len(streams)  # chunks
    found: list[tuple[float, float]] = []
    tick = order.start
    while tick < order.start + order.seconds:
        time.sleep(max(0.0, tick - time.monotonic()))
        now = time.monotonic()
        come = [max(0, int((now - start) / PIECE_SECONDS)) for start in starts]
        new = [i for i in range(len(streams)) if come[i] > given[i]]
        pieces = [sound[places[i] + given[i] * piece : places[i] + come[i] * piece] for i in new]
        advance_streams([streams[i] for i in new], pieces, rate)
        out = time.monotonic()
        for i in new:
            given[i] = come[i]
            while completing[said[i]] <= come[i]:
                came = starts[i] + completing[said[i]] * PIECE_SECONDS
                found.append((came - order.start, out - came))
                said[i] += 1
        tick = max(tick + TICK_SECONDS, out)
    return np.array(found).reshape(-1, 2)


def complete_chunks(
    model: AcousticModel, latency_ms: float, piece: int, seconds: float
) -> list[int]:
    """After how many pieces each chunk of a stream can be read, for more than the run's seconds."""
    context, config = model.context(latency_ms), model.features.config
    stack = model.encoder.config.stack
    pieces = [0]
    while pieces[-1] * PIECE_SECONDS <= 2 * seconds + 10:
        frames = ((len(pieces) - 1) * context.chunk + context.frames) * stack
        pieces.append(-(-((frames - 1) * config.hop + config.window) // piece))
    return pieces[1:]


@contextmanager
def start_workers(setup: Setup, pool: np.ndarray, count: int) -> Iterator[list[Connection]]:
    """Processes that serve live streams, once all are ready."""
    spawn = multiprocessing.get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(count)]
    processes = [
        spawn.Process(target=serve, args=(theirs, setup, pool), daemon=True) for _, theirs in pairs
    ]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()
    try:
        for ours, _ in pairs:
            receive(ours)
        yield [ours for ours, _ in pairs]
        for ours, _ in pairs:
            ours.send(None)
    finally:
        for ours, _ in pairs:
            ours.close()
        for process in processes:
            process.join()


def receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise ConfigError("A process of live streams ended; see above for the reason.") from None


def run_live(workers: Sequence[Connection], latency_ms: float, streams: int, seconds: float) -> Run:
    start = time.monotonic() + 0.5 + streams / 2000  # until then the streams are made
    for first, worker in enumerate(workers):
        worker.send(Order(latency_ms, streams, first, len(workers), start, seconds))
    answers = [receive(worker) for worker in workers]
    came, latency = np.concatenate([chunks for chunks, _ in answers]).T
    counted = came >= WARM_SECONDS
    late = came >= (WARM_SECONDS + seconds) / 2
    p50, p99 = np.quantile(latency[counted], [0.5, 0.99])
    return Run(
        streams,
        float(p50),
        float(p99),
        float(latency[late].mean() - latency[counted & ~late].mean()),
        sum(cpu for _, cpu in answers) / (len(workers) * seconds),
    )


def find_most(measure: Callable[[int], Run], first: int, label: str) -> list[Run]:
    """Runs around the most streams that are held: doubled from `first`, then halfway."""
    runs: list[Run] = []
    held, failed, streams = 0, 0, first
    with Bar(label, None, "runs") as bar:
        while not failed or failed - held > max(1, RESOLUTION * failed):
            run = measure(streams)
            runs.append(run)
            if run.holds:
                held = streams
            else:
                failed = streams
            bar.advance(note=f"{streams} streams: p99 {1000 * run.p99:.0f} ms")
            streams = (held + failed) // 2 if failed else 2 * held
    return sorted(runs, key=lambda run: run.streams)


# ---- Results ------------------------------------------------------------------------------------


def report_conditions(options: argparse.Namespace) -> None:
    say(
        f"{TOGETHER} streams: medians of {options.rounds} rounds of {options.round_seconds:g} s, "
        f"CPU ms per second of audio, one thread; live: {options.cores} processes, runs of "
        f"{options.seconds:g} s, ms beyond the latency; load: of the whole machine, before and after"
    )
    say(
        f"{'decoder':<9}{'latency':>8}{'together':>10}{'one by one':>12}{'ratio':>7}"
        f"{'streams':>9}{'p50':>6}{'p99':>6}{'busy':>7}{'load':>12}"
    )


def report(point: dict[str, Any]) -> None:
    line = (
        f"{point['decoder']:<9}{point['latency_ms']:>8g}{point['together']:>10.2f}"
        f"{point['one_by_one']:>12.2f}{point['one_by_one_ratio']:>7.2f}"
    )
    if most := point["most"]:
        line += (
            f"{most['streams']:>9}{1000 * most['p50']:>6.0f}{1000 * most['p99']:>6.0f}"
            f"{100 * most['busy']:>5.0f} %"
        )
    else:
        line += f"{'none':>9}{'':>19}"
    before, after = point["load"]
    say(f"{line}{before:>6.1f}{after:>6.1f}")
    if RIVAL in point:
        say(
            f"{point['version']}: {point[RIVAL]:.2f}; {point[f'{RIVAL}_ratio']:.1f} times ours "
            f"together, {point[RIVAL] / point['one_by_one']:.1f} times ours one by one"
        )


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency against the number of streams, a color for each decoder and latency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for number, point in enumerate(points):
        runs = point["runs"]
        x = [run["streams"] for run in runs]
        label = f"{point['decoder']}, {point['latency_ms']:g} ms"
        for key, style in (("p50", "o--"), ("p99", "o-")):
            y = [max(1.0, 1000 * run[key]) for run in runs]
            axis.plot(x, y, style, color=f"C{number}", ms=4, label=f"{label}: {key}")
    axis.axhline(1000 * LIMIT_SECONDS, color="0.4", linestyle=":")
    axis.set(
        title="Time from the piece that completes a chunk to its partial",
        xlabel="live streams",
        ylabel="ms beyond the algorithm's latency",
        yscale="log",
        xlim=(0, None),
    )
    axis.grid(which="both", alpha=0.25)
    axis.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


if __name__ == "__main__":
    sys.exit(main())
