"""How much of the machine `asr serve` passes on: live streams, and recordings.

    python scripts/benchmarks/server.py [--checkpoint FILE] [--decoder greedy] [--json FILE]

Everything is measured in one run, with the same model and sound:

- engine: the most live streams that `benchmarks/streaming.py` holds without a network: a process with
  one thread for each core, 99 % of the chunks ready within 300 ms, no growing backlog.
- server: the most WebSocket streams that the server holds by the same rule, sent by a light client on
  this machine. The client's CPU time is not the server's: the second ratio compares with the
  engine's number times the share of the cores that the client leaves.
- recordings: audio seconds per second of `POST /v1/audio/transcriptions`, for one long recording and
  for many short ones that 16 clients upload, against `Recognizer` in a process of its own that does
  what `asr transcribe` does once it has started. Rounds alternate; the ratio is their median.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
from harness import ROOT, finish, make_parser, median_ratio, verdict, write_json
from streaming import (
    PIECE_SECONDS,
    WARM_SECONDS,
    Run,
    Setup,
    complete_chunks,
    find_most,
    make_pool,
    run_live,
    start_workers,
)

from asr.checkpoint import Checkpoint
from asr.decoder.config import DecoderConfig
from asr.errors import ConfigError
from asr.progress import say, track
from asr.recognizer import Recognizer
from asr.release import RELEASED

sys.path.insert(0, str(ROOT / "scripts"))
from server_faults import serving

LIVE_TARGET, FILE_TARGET = 0.7, 0.9
CLIENTS = 16
LONG_SECONDS, SHORT_SECONDS, SHORT = 300, 6, 48
RATE = 16_000


def main() -> int:
    return finish(run, parse_options())


def parse_options() -> argparse.Namespace:
    parser = make_parser(__doc__, rounds=3, with_json=True)
    parser.add_argument(
        "--checkpoint", type=Path, default=RELEASED, help="(default: the English one)"
    )
    parser.add_argument("--decoder", choices=["greedy", "beam"], default="beam")
    parser.add_argument("--manifest", type=Path, help="speech (default: synthetic sound)")
    parser.add_argument("--latency", type=float, default=640, metavar="MS")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10, help="length of a live run")
    parser.add_argument("--first", type=int, default=60, help="streams of the first live run")
    parser.add_argument("--only", choices=["live", "recordings"])
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    checkpoint = Checkpoint.read(options.checkpoint)
    decoder = checkpoint.decoder if options.decoder == "beam" else DecoderConfig()
    setup = Setup(options.checkpoint, decoder)
    pool = make_pool(options.manifest, RATE)
    arguments = ["--checkpoint", str(options.checkpoint), f"--threads={options.cores}"]
    arguments += ["--streams=100000", "--pause=0", f"--decoder={options.decoder}"]
    figures: dict[str, Any] = {"command": sys.argv}
    if options.only != "recordings":
        figures["live"] = measure_live(options, setup, pool, arguments)
    if options.only != "live":
        figures["recordings"] = measure_recordings(options, setup, pool, arguments)
    if options.json:
        write_json(options.json, figures)


# ---- Live ---------------------------------------------------------------------------------------


def measure_live(
    options: argparse.Namespace, setup: Setup, pool: np.ndarray, arguments: list[str]
) -> dict[str, Any]:
    """The most live streams of the engine and of the server."""
    with start_workers(setup, pool, options.cores) as workers:
        measure = partial(run_live, workers, options.latency, seconds=options.seconds)
        engine = find_most(measure, options.first, "engine")
    model = setup.load().model
    with tempfile.TemporaryDirectory() as name, serving(*arguments) as server:
        samples = Path(name) / "samples"
        samples.write_bytes(pool.tobytes())
        context = model.context(options.latency)
        order = {
            "samples": str(samples),
            "seconds": options.seconds,
            "query": f"latency_ms={options.latency:g}&pause=0",
            "chunk_seconds": context.chunk * model.frame_seconds,
            "completing": complete_chunks(
                model, options.latency, round(RATE * PIECE_SECONDS), options.seconds
            ),
        }
        shares: dict[int, float] = {}
        runs = find_most(
            partial(run_clients, server.port, order, Path(name), shares), options.first, "server"
        )
    held = [[run for run in found if run.holds] for found in (engine, runs)]
    if not all(held):
        raise ConfigError("not even the first number of streams was held; lower --first")
    best, ours = held[0][-1], held[1][-1]
    share = shares[ours.streams]
    ratio, fair = ours.streams / best.streams, ours.streams / (best.streams * (1 - share))
    say(f"live streams at {options.latency:g} ms, {options.decoder}, {options.cores} cores:")
    say(f"  engine without a network: {best.streams}, p99 {1000 * best.p99:.0f} ms")
    say(
        f"  server: {ours.streams}, p99 {1000 * ours.p99:.0f} ms; its client took {share:.0%} of them"
    )
    say(
        f"  server/engine: {ratio:.2f}; with the client counted apart {fair:.2f} "
        f"{verdict(fair, LIVE_TARGET, at_least=True)}"
    )
    return {
        "engine": vars(best),
        "server": vars(ours),
        "client": share,
        "ratio": ratio,
        "fair": fair,
    }


def run_clients(
    port: int,
    order: dict[str, Any],
    folder: Path,
    shares: dict[int, float],
    streams: int,
) -> Run:
    """Let a client send live streams, and describe the latencies as `streaming.py` does."""
    path = folder / "order.json"
    path.write_text(json.dumps({**order, "streams": streams}))
    command = [sys.executable, str(ROOT / "scripts/server_client.py"), str(port), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"the client failed: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    cores = multiprocessing.cpu_count()
    shares[streams] = answer["cpu_seconds"] / (cores * order["seconds"])
    arrival, latency = np.array(answer["found"]).reshape(-1, 2).T
    counted = arrival >= WARM_SECONDS
    late = arrival >= (WARM_SECONDS + order["seconds"]) / 2
    p50, p99 = np.quantile(latency[counted], [0.5, 0.99])
    growth = latency[late].mean() - latency[counted & ~late].mean()
    return Run(streams, float(p50), float(p99), float(growth), 0.0)


# ---- Recordings ---------------------------------------------------------------------------------


def measure_recordings(
    options: argparse.Namespace, setup: Setup, pool: np.ndarray, arguments: list[str]
) -> dict[str, Any]:
    """Audio seconds per second of uploads and of the library, in turns."""
    with tempfile.TemporaryDirectory() as name, serving(*arguments) as server:
        folder = Path(name)
        sound = np.resize(pool, LONG_SECONDS * RATE)
        sets: dict[str, list[Path]] = {"long": [folder / "long.wav"], "short": []}
        soundfile.write(sets["long"][0], sound, RATE)
        for number in range(SHORT):
            path = folder / f"{number}.wav"
            begin = number * RATE
            soundfile.write(path, sound[begin : begin + SHORT_SECONDS * RATE], RATE)
            sets["short"].append(path)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=transcribe, args=(theirs, setup, options.cores), daemon=True
        )
        process.start()
        ours.recv()
        seconds: dict[str, dict[str, list[float]]] = {
            kind: {"server": [], "library": []} for kind in sets
        }
        for number in track(range(options.rounds + 1), "recordings", unit="rounds"):
            for kind, paths in sets.items():
                for way in sorted(("server", "library"), reverse=bool(number % 2)):
                    began = time.monotonic()
                    if way == "server":
                        upload_all(server.port, paths)
                    else:
                        ours.send(paths)
                        ours.recv()
                    if number:  # the first round warms up
                        seconds[kind][way].append(time.monotonic() - began)
        ours.send(None)
        process.join()
    result = {}
    for kind, found in seconds.items():
        ratio = median_ratio(found["library"], found["server"])
        audio = LONG_SECONDS if kind == "long" else SHORT * SHORT_SECONDS
        say(
            f"{kind} recordings: {audio / median(found['server']):.0f} audio seconds per second "
            f"through the server, {audio / median(found['library']):.0f} by the library; ratio "
            f"{ratio:.2f} {verdict(ratio, FILE_TARGET, at_least=True)}"
        )
        result[kind] = {**found, "ratio": ratio}
    return result


def transcribe(connection: Connection, setup: Setup, threads: int) -> None:
    """Transcribe the recordings that are asked for, as `asr transcribe` does."""
    recognizer = Recognizer.load(setup.checkpoint, threads=threads, decoder=setup.decoder)
    connection.send("ready")
    while paths := connection.recv():
        connection.send([result.text for _, result in recognizer.transcribe_many(paths)])


def upload_all(port: int, paths: Sequence[Path]) -> None:
    """Upload recordings from several clients."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(partial(upload, port), paths):
            pass


def upload(port: int, path: Path) -> str:
    """Upload a recording; returns its text."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/audio/transcriptions",
        data=head + path.read_bytes() + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["text"]


if __name__ == "__main__":
    sys.exit(main())
