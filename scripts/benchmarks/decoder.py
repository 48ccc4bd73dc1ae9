"""Our beam decoder against pyctcdecode, flashlight-text and fast-ctc-decode on the same matrices.

    python scripts/benchmarks/decoder.py                 time and WER at four beams, same weights
    python scripts/benchmarks/decoder.py --tune          also tune each decoder on half the matrices
    python scripts/benchmarks/decoder.py --tuned FILE    also compare with weights found before

Each rival has its own environment, built on first use; a rival that cannot be built is skipped and
the reason is printed. Each decoder runs in its own process and decodes the same utterances on one
thread. In each round all decoders take turns at each beam width, so that noise of the machine affects
all alike. Times are CPU milliseconds of the decoding calls per second of audio, as medians over the
rounds. A ratio is the median of the rounds' ratios of a rival's time to ours at the same beam width;
decoders without a language model are compared with ours without one.

In the first comparison `--alpha` (natural logarithms), `--beta` and, if a decoder has one,
`--token-floor` are equal for all; fast-ctc-decode also runs without a floor, which is its default.
The penalty of an unknown word is each decoder's own default. `--tune` gives each decoder with a
language model the same number of trials on the first half of the matrices, then compares all on the
second half with a paired bootstrap over the utterances.
"""

import argparse
import contextlib
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from decoder_bench import CONTESTANTS, MIN_SECONDS, OURS, PACKAGES, Bench, Ours
from decoder_report import draw, say_table, say_tuned
from decoder_rivals import serve
from decoder_tuning import bootstrap, tune
from harness import DECODER_DATA, ROOT, finish, make_parser, median_ratio, write_json
from rivals import Worker, WorkerError, build_environment

from asr.errors import ConfigError
from asr.progress import Bar, complain, say
from asr.text import Vocabulary

BEAMS = (16, 32, 64, 128)


def main() -> int:
    options = parse_options()
    if options.serve:
        serve(Ours, options.serve)
        return 0
    return finish(measure, options)


def measure(options: argparse.Namespace) -> None:
    """Run the comparisons and write their results into the output folder."""
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        references, seconds = write_inputs(options, folder)
        workers = start_workers(options, folder, stack)
        weights = {
            "alpha": options.alpha,
            "beta": options.beta,
            "token_floor": options.token_floor,
        }
        bench = Bench(references, seconds, workers, weights)
        results: dict[str, Any] = {
            "command": sys.argv,
            "versions": {name: worker.hello for name, worker in workers.items()},
        }
        results["same_weights"] = compare(bench, options)
        results["threads"] = compare_threads(bench, options)
        if options.tune or options.tuned:
            results["tuned"] = compare_tuned(bench, options)
    write_json(options.output / "results.json", results)
    draw(results, options.output / "benchmark.png")
    say(f"All results are in {options.output}.")


def parse_options() -> argparse.Namespace:
    parser = make_parser(__doc__, rounds=5, with_rivals=True)
    parser.add_argument(
        "--emissions",
        type=Path,
        default=DECODER_DATA / "emissions.npz",
        help="npz of logp (frames of all utterances, 29: blank, space, a to z, apostrophe), lens "
        "(number of frames of each utterance) and refs (texts) (default: %(default)s)",
    )
    parser.add_argument(
        "--lm",
        type=Path,
        default=DECODER_DATA / "lm3.arpa.gz",
        help="ARPA file, may be gzip-compressed (%(default)s)",
    )
    parser.add_argument("--frame-seconds", type=float, default=0.04)
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS)
    parser.add_argument(
        "--utterances", type=int, default=50, help="number of utterances decoded in each round"
    )
    parser.add_argument("--alpha", type=float, default=0.4, help="weight of the language model")
    parser.add_argument("--beta", type=float, default=3.0, help="bonus per word")
    parser.add_argument(
        "--token-floor",
        type=float,
        default=-5.0,
        help="log-probability below which a symbol is skipped in a frame",
    )
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--tuned", type=Path, help="tuned.json of an earlier run")
    parser.add_argument("--tune-beam", type=int, default=32)
    parser.add_argument(
        "--trials", type=int, default=60, help="number of weights tried per decoder"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rivals", nargs="*", choices=PACKAGES, default=list(PACKAGES), help="(default: all)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmark-decoder")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for path in (options.emissions, options.lm, options.tuned):
        if not options.serve and path is not None and not path.is_file():
            parser.error(f"{path} does not exist; name another file")
    return options


def write_inputs(options: argparse.Namespace, folder: Path) -> tuple[list[str], np.ndarray]:
    """Write the input of all decoders, with normalized log-probabilities.

    Returns:
        The references, and the seconds of each utterance (utterances,).
    """
    symbols = Vocabulary.english().to_list()
    with np.load(options.emissions) as arrays:
        log_probs = arrays["logp"].astype(np.float32)  # (frames, V)
        frames, references = arrays["lens"], arrays["refs"].tolist()
    if log_probs.shape != (frames.sum(), len(symbols)):
        raise ConfigError(
            f"{options.emissions} holds logp of shape {log_probs.shape} instead of "
            f"{(int(frames.sum()), len(symbols))}, the sum of lens and the number of symbols; name "
            "another file with --emissions"
        )
    log_probs -= log_probs.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    np.save(folder / "log_probs.npy", log_probs)
    np.save(folder / "frames.npy", frames)
    (folder / "symbols.json").write_text(json.dumps(symbols))

    content = options.lm.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    (folder / "lm.arpa").write_bytes(content)
    letters = set(symbols[2:])
    unigrams = content.partition(b"\\1-grams:")[2].partition(b"\\2-grams:")[0].decode()
    words = [line.split()[1] for line in unigrams.split("\n") if line.strip()]
    (folder / "words.txt").write_text("\n".join(word for word in words if letters.issuperset(word)))
    return references, frames * options.frame_seconds


def start_workers(
    options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> dict[str, Worker]:
    """Start a process for each decoder; a rival that fails is skipped and the reason printed."""
    script = Path(__file__)
    ours = Worker([sys.executable, str(script), "--serve", str(folder)], folder / f"{OURS}.log")
    workers = {OURS: ours}
    stack.callback(ours.close)
    rivals = str(script.with_name("decoder_rivals.py"))
    for name in options.rivals:
        try:
            python = build_environment(options.environments / name, PACKAGES[name])
            command = [str(python), rivals, name, str(folder)]
            workers[name] = Worker(command, folder / f"{name}.log")
        except WorkerError as error:
            complain(f"{name} is skipped: {error}")
            continue
        stack.callback(workers[name].close)
    for worker in workers.values():
        say(", ".join(f"{package} {version}" for package, version in worker.hello.items()))
    return workers


def compare(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Time and errors of all decoders at all beam widths, with the same weights."""
    utterances = choose(len(bench.references), options.utterances)
    turns = [(c, beam) for c in bench.contestants for beam in options.beams]
    ms: dict[tuple[str, int], list[float]] = {(c.name, beam): [] for c, beam in turns}
    texts = {}
    with Bar("Rounds", options.rounds * len(turns), "turns") as bar:
        for number in range(options.rounds):
            for contestant, beam in reversed(turns) if number % 2 else turns:
                answer = bench.decode(contestant, beam, utterances, MIN_SECONDS)
                ms[contestant.name, beam].append(answer["ms"])
                texts[contestant.name, beam] = answer["texts"]
                bar.advance(note=f"{contestant.name}, beam {beam}")
    cells = {
        contestant.name: {
            beam: {
                "ms": median(ms[contestant.name, beam]),
                "ms_of_rounds": ms[contestant.name, beam],
                "wer": bench.wer(utterances, texts[contestant.name, beam]),
            }
            for beam in options.beams
        }
        for contestant in bench.contestants
    }
    for rival, ours in bench.rivals():
        for beam, cell in cells[rival.name].items():
            cell["ratio"] = median_ratio(ms[rival.name, beam], ms[ours.name, beam])
    say(
        f"\n{len(utterances)} utterances, {bench.seconds[utterances].sum():.0f} s of audio, "
        f"{options.rounds} rounds, one thread, alpha {options.alpha:g}, beta {options.beta:g}, token "
        f"floor {options.token_floor:g}: CPU ms per second of audio / WER % / times ours"
    )
    say_table(cells, options.beams)
    return {"utterances": utterances, "cells": cells}


def choose(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly spaced."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(wanted, count)).round()})


def compare_threads(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Wall-clock seconds of ours over all utterances, alternating between one thread and two."""
    contestant, utterances = CONTESTANTS[0], range(len(bench.references))
    wall: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]
    for _ in range(2 * options.rounds):
        for threads in (1, 2):
            answer = bench.decode(
                contestant, options.tune_beam, utterances, MIN_SECONDS, threads=threads
            )
            wall[threads].append(answer["wall_seconds"])
            cores[threads].append(answer["cpu_seconds"] / answer["wall_seconds"])
    ratio = median_ratio(wall[1], wall[2])
    one, two = (median(cores[threads]) for threads in (1, 2))
    say(
        f"\n{OURS} at beam width {options.tune_beam} on two threads: {ratio:.2f} times as fast in "
        f"wall-clock time as on one. On an idle machine they use 1 and 2 cores; here they used "
        f"{one:.2f} and {two:.2f} (load {load:.1f} on {os.cpu_count()} cores before)."
    )
    return {
        "beam": options.tune_beam,
        "wall_seconds": wall,
        "cores": cores,
        "ratio": ratio,
        "load": load,
    }


def compare_tuned(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Time and errors on the second half of the matrices, with each decoder's tuned weights."""
    half = len(bench.references) // 2
    held_out = list(range(half, len(bench.references)))
    if options.tuned:
        saved = json.loads(options.tuned.read_text())
        weights = {c.name: saved[c.name] for c in bench.contestants if c.name in saved}
    else:
        weights = tune(bench, list(range(half)), options.trials, options.tune_beam, options.seed)
        write_json(options.output / "tuned.json", weights)
    cells: dict[str, Any] = {}
    errors: dict[tuple[str, int], np.ndarray] = {}
    with Bar("Held-out half", len(bench.contestants) * len(options.beams), "turns") as bar:
        for contestant in bench.contestants:
            cells[contestant.name] = {}
            for beam in options.beams:
                chosen = weights.get(contestant.name, {})
                answer = bench.decode(contestant, beam, held_out, MIN_SECONDS, **chosen)
                wrong, words = bench.errors(held_out, answer["texts"])
                errors[contestant.name, beam] = wrong
                wer = 100 * float(wrong.sum() / words.sum())
                cells[contestant.name][beam] = {"ms": answer["ms"], "wer": wer}
                bar.advance(note=f"{contestant.name}, beam {beam}")
    for rival, ours in bench.rivals():
        for beam, cell in cells[rival.name].items():
            cell["ratio"] = cell["ms"] / cells[ours.name][beam]["ms"]
            difference = errors[ours.name, beam] - errors[rival.name, beam]
            cell["ours_minus_this"] = bootstrap(difference, words, options.seed)
    say(f"\nTuned on the first {half} utterances, tested in one pass on the other {len(held_out)}")
    say_tuned(bench, weights, cells, options.beams)
    return {"weights": weights, "cells": cells}


if __name__ == "__main__":
    sys.exit(main())
