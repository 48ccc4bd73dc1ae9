"""How many live streams this machine can serve, and what decoding them together saves.

    python scripts/benchmarks/streaming.py                      random weights, synthetic sound
    python scripts/benchmarks/streaming.py --checkpoint runs/english/best.pt \
        --manifest data/english/dev.jsonl --lm data/english/language-model.lm

Three figures are measured at each latency:

- together: CPU time of 16 streams through `advance_streams`, compared with 16 calls of `Stream.accept`
  for the same pieces, alternating on one thread, so that noise of the machine affects both alike. In
  each round pocketsphinx 5 decodes one of the streams in the same pieces, in its own environment that
  is built on first use. Figures are medians over the rounds; ratios are medians of the rounds' ratios.
- live: every stream receives a piece of 100 ms every 100 ms of wall-clock time, and the starts of the
  streams are spread over a chunk. One process with one thread for each core serves its share of the
  streams: at each tick it passes all new pieces to `advance_streams`. The latency of a chunk is the
  time from the arrival of the piece that completes it to its partial result, which adds to the
  algorithmic latency.
- most: the largest number of streams for which 99 % of the chunks are ready within 300 ms and the
  backlog does not grow, found by doubling and bisection.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import finish, make_parser, median_ratio, write_json
from rivals import Worker, WorkerError, build_environment
from streaming_report import LIMIT_SECONDS, RIVAL, draw, say_conditions, say_point

from asr.audio.waveform import load_audio
from asr.checkpoint import Checkpoint
from asr.data.manifest import read_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.progress import Bar, complain
from asr.recognizer import Recognizer
from asr.stream import Partial, Stream, advance_streams
from asr.text import Vocabulary

RIVAL_RATE = 16_000
PACKAGES = ("pocketsphinx>=5,<6", "numpy")
PIECE_SECONDS = 0.1
TICK_SECONDS = 0.05
# Number of streams that are decoded together.
TOGETHER = 16
# Maximum increase of the mean latency from the first half of a run to the second.
GROWTH_SECONDS = 0.05
# Results from the beginning of a run are discarded.
WARM_SECONDS = 2.0
# Length of the common sound; each stream begins at another position in it.
POOL_SECONDS = 120
# Relative precision at which the search for the most streams ends.
RESOLUTION = 0.04


@dataclass(frozen=True)
class Setup:
    """The recognizer that every process loads."""

    checkpoint: Path | None
    decoder: DecoderConfig

    def load(self) -> Recognizer:
        """Load the recognizer on one thread; without a checkpoint it has random weights."""
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
    """The result of a live run."""

    streams: int
    p50: float  # median latency of the chunks beyond the algorithmic latency, in seconds
    p99: float  # the same for the 99th percentile
    growth: float  # increase of the mean latency in the second half, in seconds
    busy: float  # share of the processes' time that was CPU time

    @property
    def holds(self) -> bool:
        """Whether all streams were served in time."""
        return self.p99 <= LIMIT_SECONDS and self.growth <= GROWTH_SECONDS


def main() -> int:
    return finish(run, parse_options())


def parse_options() -> argparse.Namespace:
    parser = make_parser(__doc__, rounds=5, with_rivals=True, with_json=True)
    parser.add_argument("--checkpoint", type=Path, help="(default: 3x256 cells, random weights)")
    parser.add_argument("--lm", type=Path, help="language model; adds a beam decoder")
    parser.add_argument("--manifest", type=Path, help="speech (default: synthetic sound)")
    parser.add_argument("--latencies", type=float, nargs="+", default=[640, 320], metavar="MS")
    parser.add_argument("--cores", type=int, default=2, help="number of processes with one thread")
    parser.add_argument("--seconds", type=float, default=12, help="length of a live run")
    parser.add_argument(
        "--round-seconds", type=float, default=20, help="length of each stream in a round"
    )
    parser.add_argument("--no-rival", action="store_true", help="measure only asr")
    parser.add_argument("--picture", type=Path, help="also draw latency against streams")
    options = parser.parse_args()
    if options.lm and not options.checkpoint:
        parser.error("--lm needs --checkpoint, because random weights produce no words")
    if min(options.cores, options.rounds) < 1:
        parser.error("--cores and --rounds must be at least 1")
    if options.seconds < 3 * WARM_SECONDS or options.round_seconds < 1:
        parser.error(f"--seconds must be {3 * WARM_SECONDS:g} or more, --round-seconds 1 or more")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure each decoder at each latency and report the results."""
    setups = {"greedy": Setup(options.checkpoint, DecoderConfig())}
    if options.lm:
        config = replace(Checkpoint.read(options.checkpoint).decoder, kind="beam")
        setups["beam"] = Setup(options.checkpoint, replace(config, language_model=str(options.lm)))
    points: list[dict[str, Any]] = []
    say_conditions(options, TOGETHER)
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
                say_point(point)
    if options.json:
        write_json(options.json, {"command": sys.argv, "points": points})
    if options.picture:
        draw(points, options.picture)


# ---- Sound --------------------------------------------------------------------------------------


def make_pool(manifest: Path | None, rate: int) -> np.ndarray:
    """Sound (N,) int16 that all streams share: speech, or noise of varying loudness."""
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
        raise ConfigError(f"{manifest} holds less than 10 s of speech; name a larger manifest")
    scaled: np.ndarray = (32_767 * np.clip(speech, -1, 1)).astype(np.int16)
    return scaled


def cut(pool: np.ndarray, streams: int, samples: int) -> np.ndarray:
    """The signal of each stream (streams, samples), from evenly spaced positions in the pool."""
    begin = np.arange(streams)[:, None] * len(pool) // streams
    signals: np.ndarray = pool[(begin + np.arange(samples)) % len(pool)]
    return signals


# ---- Together against one by one ----------------------------------------------------------------


@contextmanager
def start_rival(environments: Path, signals: np.ndarray, piece: int) -> Iterator[Worker | None]:
    """Start the rival for signals (streams, N); None if it fails, and the reason is printed."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npy"
        np.save(samples, signals)
        try:
            python = build_environment(environments / RIVAL, PACKAGES)
            script = Path(__file__).with_name("streaming_rival.py")
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
    """Decode signals (streams, N) together and one by one; the rival decodes one of them.

    Returns:
        Medians of CPU milliseconds per second of audio, and of the rounds' ratios.
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
    columns = {name: [ms[name] for ms in found[1:]] for name in found[0]}
    result = {name: median(column) for name, column in columns.items()}
    for name in set(columns) - {"together"}:
        result[f"{name}_ratio"] = median_ratio(columns[name], columns["together"])
    return result


def _piece(rate: int) -> int:
    """Number of samples of a piece."""
    return round(PIECE_SECONDS * rate)


# ---- Live ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """A live run; the process that receives it serves streams `first`, `first + step`, ..."""

    latency_ms: float
    streams: int
    first: int
    step: int
    start: float  # on the monotonic clock, which all processes share
    seconds: float


def serve(connection: Connection, setup: Setup, pool: np.ndarray) -> None:
    """Answer orders with each chunk's arrival and latency (chunks, 2), and the CPU seconds."""
    recognizer = setup.load()
    serve_live(recognizer, pool, Order(640, 2, 0, 1, time.monotonic(), WARM_SECONDS))
    connection.send("ready")
    while order := connection.recv():
        before = time.process_time()
        chunks = serve_live(recognizer, pool, order)
        connection.send((chunks, time.process_time() - before))


def serve_live(recognizer: Recognizer, pool: np.ndarray, order: Order) -> np.ndarray:
    """Serve live streams to the end of a run; returns (chunks, 2) seconds, see `serve`."""
    rate = recognizer.sample_rate
    piece = _piece(rate)
    numbers = range(order.first, order.streams, order.step)
    streams = [recognizer.stream(order.latency_ms) for _ in numbers]
    sound = np.resize(pool, len(pool) + int((order.seconds + 1) * rate))
    places = [number * len(pool) // order.streams for number in numbers]
    context = recognizer.model.context(order.latency_ms)
    chunk_seconds = context.chunk * recognizer.model.frame_seconds
    starts = [order.start + chunk_seconds * number / order.streams for number in numbers]
    given = [0] * len(streams)  # number of pieces passed to each stream
    completing = complete_chunks(recognizer.model, order.latency_ms, piece, order.seconds)
    decoded = [0] * len(streams)  # number of chunks of each stream
    found: list[tuple[float, float]] = []
    tick = order.start
    while tick < order.start + order.seconds:
        time.sleep(max(0.0, tick - time.monotonic()))
        now = time.monotonic()
        arrived = [max(0, int((now - start) / PIECE_SECONDS)) for start in starts]
        new = [i for i in range(len(streams)) if arrived[i] > given[i]]
        pieces = [sound[places[i] + given[i] * piece : places[i] + arrived[i] * piece] for i in new]
        advance_streams([streams[i] for i in new], pieces, rate)
        ready = time.monotonic()
        for i in new:
            given[i] = arrived[i]
            while completing[decoded[i]] <= arrived[i]:
                arrival = starts[i] + completing[decoded[i]] * PIECE_SECONDS
                found.append((arrival - order.start, ready - arrival))
                decoded[i] += 1
        tick = max(tick + TICK_SECONDS, ready)
    return np.array(found).reshape(-1, 2)


def complete_chunks(
    model: AcousticModel, latency_ms: float, piece: int, seconds: float
) -> list[int]:
    """The number of pieces after which each chunk of a stream is complete, beyond `seconds`."""
    context, config = model.context(latency_ms), model.features.config
    stack = model.encoder.config.stack
    pieces = [0]
    while pieces[-1] * PIECE_SECONDS <= 2 * seconds + 10:
        frames = ((len(pieces) - 1) * context.chunk + context.frames) * stack
        pieces.append(-(-((frames - 1) * config.hop + config.window) // piece))
    return pieces[1:]


@contextmanager
def start_workers(setup: Setup, pool: np.ndarray, count: int) -> Iterator[list[Connection]]:
    """Start processes that serve live streams, and wait until all are ready."""
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
    """Receive from a process. Raises ConfigError if it has ended."""
    try:
        return connection.recv()
    except EOFError:
        raise ConfigError("a process of live streams ended; see above for the reason") from None


def run_live(workers: Sequence[Connection], latency_ms: float, streams: int, seconds: float) -> Run:
    """Serve live streams in all processes."""
    start = time.monotonic() + 0.5 + streams / 2000  # leaves time to create the streams
    for first, worker in enumerate(workers):
        worker.send(Order(latency_ms, streams, first, len(workers), start, seconds))
    answers = [receive(worker) for worker in workers]
    arrival, latency = np.concatenate([chunks for chunks, _ in answers]).T
    counted = arrival >= WARM_SECONDS
    late = arrival >= (WARM_SECONDS + seconds) / 2
    p50, p99 = np.quantile(latency[counted], [0.5, 0.99])
    return Run(
        streams,
        float(p50),
        float(p99),
        float(latency[late].mean() - latency[counted & ~late].mean()),
        sum(cpu for _, cpu in answers) / (len(workers) * seconds),
    )


def find_most(measure: Callable[[int], Run], first: int, label: str) -> list[Run]:
    """Search the most streams that are served in time, by doubling from `first` and bisection."""
    runs: list[Run] = []
    held, failed, streams = 0, 0, first  # largest success, smallest failure, next try
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


if __name__ == "__main__":
    sys.exit(main())
