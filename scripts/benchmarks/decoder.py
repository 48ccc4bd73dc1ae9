"""Our beam decoder against pyctcdecode, flashlight-text and fast-ctc-decode on the same matrices.

    python scripts/benchmark_decoder.py                 time and WER at four beams, same weights
    python scripts/benchmark_decoder.py --tune          and each decoder tuned on half the matrices
    python scripts/benchmark_decoder.py --tuned FILE    the same with the weights found before

Every rival gets an environment of its own, built on first use; one that cannot be built is skipped
with the reason. Every decoder lives in a process of its own and decodes the same utterances on one
thread. In each round each decoder has its turn at each beam, so that a noisy machine is as noisy to
each; times are CPU milliseconds of the decoding calls per second of audio, and medians over the
rounds. A ratio is the median of the rounds' ratios, a rival's time over ours at the same beam and
in the same round; those without a language model are held against ours without one.

In the first comparison `--alpha` (natural logarithms), `--beta` and, where a decoder has one, the
`--token-floor` are the same for all; fast-ctc-decode is run without it too, as is its default. An
unknown word costs what each decoder's own default says. `--tune` gives each decoder with a language
model the same number of trials on the first half of the matrices, then compares all on the second
half with a paired bootstrap over the utterances.
"""

import argparse
import contextlib
import gzip
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_decoder_rivals import Decode, serve
from rivals import Worker, WorkerError, build_environment

from asr import score
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis
from asr.errors import EXIT_CODE
from asr.lm.model import LanguageModel
from asr.progress import Bar, complain, say
from asr.text import Vocabulary

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "decoder_bench"
OURS = "asr"
PACKAGES = {
    "pyctcdecode": ("pyctcdecode>=0.5", "kenlm", "numpy<2"),
    "flashlight": ("flashlight-text>=0.0.7", "kenlm", "numpy"),
    "fast-ctc-decode": ("fast-ctc-decode>=0.3.6", "numpy"),
}
LEAST_SECONDS = 0.5
"""A fast decoder repeats its turn until it has taken so much CPU time."""
BEAMS = (16, 32, 64, 128)
ALPHAS, BETAS = (0.1, 1.0), (0.0, 4.0)
"""The ranges that are searched by `--tune`, for all decoders."""
WEIGHTS = ("alpha", "beta", "unknown", "token_floor")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Contestant:
    """One line of the table: a decoder with the settings that stay."""

    name: str
    worker: str
    language_model: bool
    fixed: dict[str, Any] = field(default_factory=dict)
    unknowns: tuple[float, float] = (0.0, 0.0)
    """The range of the unknown word's weight that is searched, in the decoder's own meaning."""

    @property
    def ours(self) -> bool:
        return self.worker == OURS


CONTESTANTS = (
    Contestant(OURS, OURS, True, {"language_model": True}, (-10.0, 0.0)),
    Contestant("pyctcdecode", "pyctcdecode", True, {}, (-12.0, 0.0)),
    # The library leaves the two limits open. 25 is fairseq's threshold; one as narrow as
    # pyctcdecode's and 8 symbols a frame cost it no accuracy here, and are its fastest setting.
    *(
        Contestant(
            f"flashlight, {tokens} tokens, threshold {threshold}",
            "flashlight",
            True,
            {"tokens": tokens, "threshold": float(threshold)},
            (-8.0, 2.0),
        )
        for tokens, threshold in ((29, 25), (8, 25), (8, 10))
    ),
    Contestant(f"{OURS}, no language model", OURS, False, {"language_model": False}),
    Contestant("fast-ctc-decode", "fast-ctc-decode", False, {"cut": False}),
    Contestant("fast-ctc-decode, token floor", "fast-ctc-decode", False, {"cut": True}),
)


class Ours:
    """The decoder under test, served like its rivals."""

    packages: Sequence[str] = ("asr", "numba", "numpy")

    def __init__(self, folder: Path) -> None:
        self.language_model = LanguageModel.read(folder / "lm.arpa")

    def prepare(self, log_probs: np.ndarray) -> np.ndarray:
        return log_probs

    def configure(self, settings: dict[str, Any]) -> Decode:
        weights = tuple((name, settings[name]) for name in WEIGHTS if name in settings)
        decoder = self._decoder(settings["language_model"], settings["beam"], weights)
        if threads := settings.get("threads"):
            return lambda matrices: decoder.decode_many(matrices, threads=threads)
        return lambda matrices: [decoder.decode(matrix) for matrix in matrices]

    @lru_cache(maxsize=16)  # noqa: B019  # the one instance lives as long as its process
    def _decoder(self, language_model: bool, beam: int, weights: tuple[Any, ...]) -> BeamDecoder:
        return BeamDecoder(
            Vocabulary.english(),
            frame_seconds=1.0,  # the words' times are not looked at
            config=DecoderConfig(kind="beam", beam=beam, **dict(weights)),
            language_model=self.language_model if language_model else None,
        )

    def text(self, result: Hypothesis) -> str:
        return result.text


@dataclass(frozen=True)
class Bench:
    """What is decoded, by whom, and with which weights unless they are tuned."""

    references: list[str]
    seconds: np.ndarray  # (utterances,)
    workers: dict[str, Worker]
    weights: dict[str, float]

    @property
    def contestants(self) -> list[Contestant]:
        return [c for c in CONTESTANTS if c.worker in self.workers]

    def rivals(self) -> Iterator[tuple[Contestant, Contestant]]:
        """Each rival, and what it is held against: ours with or without a language model."""
        ours = {c.language_model: c for c in CONTESTANTS if c.ours}
        for contestant in self.contestants:
            if not contestant.ours:
                yield contestant, ours[contestant.language_model]

    def decode(
        self,
        contestant: Contestant,
        beam: int,
        utterances: Sequence[int],
        least_seconds: float = 0.0,
        **settings: Any,
    ) -> dict[str, Any]:
        """The worker's answer, and CPU milliseconds per second of audio ("ms").

        It decodes again and again until that has taken `least_seconds` of CPU; the answer's seconds
        are those of one time.
        """
        settings = {"beam": beam, **self.weights, **contestant.fixed, **settings}
        request = {
            "utterances": [int(index) for index in utterances],
            "settings": settings,
            "least_seconds": least_seconds,
        }
        answer = self.workers[contestant.worker].ask(request)
        seconds = float(self.seconds[utterances].sum())
        return {**answer, "ms": 1000 * answer["cpu_seconds"] / seconds}

    def errors(self, utterances: Sequence[int], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Word errors and reference words of each utterance."""
        names = [f"{index:06}" for index in utterances]
        references = [self.references[index] for index in utterances]
        report = score(
            dict(zip(names, references, strict=True)), dict(zip(names, texts, strict=True))
        )
        return (
            np.array([utterance.errors for utterance in report.utterances]),
            np.array([utterance.words for utterance in report.utterances]),
        )

    def wer(self, utterances: Sequence[int], texts: list[str]) -> float:
        """Word error rate in %."""
        errors, words = self.errors(utterances, texts)
        return 100 * float(errors.sum() / words.sum())


def main() -> None:
    options = parse_options()
    if options.serve:
        serve(Ours, options.serve)
        return
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
    say(f"Everything is in {options.output}.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--emissions",
        type=Path,
        default=DATA / "emissions.npz",
        help="npz of logp (frames of all utterances, 29: blank, space, a to z, apostrophe), lens "
        "(frames of each) and refs (texts) (default: %(default)s)",
    )
    parser.add_argument(
        "--lm", type=Path, default=DATA / "lm3.arpa.gz", help="ARPA, gzip or not (%(default)s)"
    )
    parser.add_argument("--frame-seconds", type=float, default=0.04)
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--utterances", type=int, default=50, help="decoded in each round, evenly chosen"
    )
    parser.add_argument("--alpha", type=float, default=0.4, help="the language model's weight")
    parser.add_argument("--beta", type=float, default=3.0, help="what each word adds")
    parser.add_argument(
        "--token-floor",
        type=float,
        default=-5.0,
        help="log-probability below which a symbol is not tried in a frame",
    )
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--tuned", type=Path, help="tuned.json of an earlier run")
    parser.add_argument("--tune-beam", type=int, default=32)
    parser.add_argument("--trials", type=int, default=60, help="weights tried for each decoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rivals", nargs="*", choices=PACKAGES, default=list(PACKAGES), help="(default: all)"
    )
    parser.add_argument("--environments", type=Path, default=ROOT / ".benchmark")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "benchmark-decoder")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for path in (options.emissions, options.lm, options.tuned):
        if path is not None and not path.is_file():
            parser.error(f"{path} is not there: name another file")
    return options


def write_inputs(options: argparse.Namespace, folder: Path) -> tuple[list[str], np.ndarray]:
    """Write what every decoder reads; the references, and the seconds of each utterance.

    The log-probabilities are normalized here, once for all decoders.
    """
    symbols = Vocabulary.english().to_list()
    with np.load(options.emissions) as arrays:
        log_probs = arrays["logp"].astype(np.float32)  # (frames, V)
        frames, references = arrays["lens"], arrays["refs"].tolist()
    if log_probs.shape != (frames.sum(), len(symbols)):
        raise SystemExit(
            f"{options.emissions}: logp of shape {log_probs.shape} is not of {frames.sum()} frames "
            f"(the sum of lens) and the {len(symbols)} symbols that are expected"
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
    """A process for each decoder; a rival that does not run is left out, and the reason printed."""
    script = Path(__file__)
    ours = Worker([sys.executable, str(script), "--serve", str(folder)], folder / f"{OURS}.log")
    workers = {OURS: ours}
    stack.callback(ours.close)
    rivals = str(script.with_name(f"{script.stem}_rivals.py"))
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
    """Time and errors of all decoders at all beams, with the same weights."""
    utterances = choose(len(bench.references), options.utterances)
    turns = [(c, beam) for c in bench.contestants for beam in options.beams]
    ms: dict[tuple[str, int], list[float]] = {(c.name, beam): [] for c, beam in turns}
    texts = {}
    with Bar("Rounds", options.rounds * len(turns), "turns") as bar:
        for number in range(options.rounds):
            for contestant, beam in reversed(turns) if number % 2 else turns:
                answer = bench.decode(contestant, beam, utterances, LEAST_SECONDS)
                ms[contestant.name, beam].append(answer["ms"])
                texts[contestant.name, beam] = answer["texts"]
                bar.advance(note=f"{contestant.name}, beam {beam}")
    cells = {
        contestant.name: {
            beam: {
                "ms": statistics.median(ms[contestant.name, beam]),
                "ms_of_rounds": ms[contestant.name, beam],
                "wer": bench.wer(utterances, texts[contestant.name, beam]),
            }
            for beam in options.beams
        }
        for contestant in bench.contestants
    }
    for rival, ours in bench.rivals():
        for beam, cell in cells[rival.name].items():
            pairs = zip(ms[rival.name, beam], ms[ours.name, beam], strict=True)
            cell["ratio"] = statistics.median(theirs / own for theirs, own in pairs)
    say(
        f"\n{len(utterances)} utterances, {bench.seconds[utterances].sum():.0f} s of audio, "
        f"{options.rounds} rounds, one thread, alpha {options.alpha:g}, beta {options.beta:g}, token "
        f"floor {options.token_floor:g}: CPU ms per second of audio / WER % / times ours"
    )
    say_table(cells, options.beams)
    return {"utterances": utterances, "cells": cells}


def choose(count: int, wanted: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, count - 1, min(wanted, count)).round()})


def say_table(cells: dict[str, Any], beams: Sequence[int]) -> None:
    say(f"{'decoder':<36}" + "".join(f"{f'beam {beam}':>24}" for beam in beams))
    for name, row in cells.items():
        texts = [
            f"{row[beam]['ms']:.3f} / {row[beam]['wer']:.2f}"
            + (f" / {row[beam]['ratio']:.2f}x" if "ratio" in row[beam] else "")
            for beam in beams
        ]
        say(f"{name:<36}" + "".join(f"{text:>24}" for text in texts))


def compare_threads(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Wall-clock seconds of ours over all utterances on one thread and on two, in turn."""
    contestant, utterances = CONTESTANTS[0], range(len(bench.references))
    wall: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]
    for _ in range(2 * options.rounds):
        for threads in (1, 2):
            answer = bench.decode(
                contestant, options.tune_beam, utterances, LEAST_SECONDS, threads=threads
            )
            wall[threads].append(answer["wall_seconds"])
            cores[threads].append(answer["cpu_seconds"] / answer["wall_seconds"])
    ratio = statistics.median(one / two for one, two in zip(wall[1], wall[2], strict=True))
    one, two = (statistics.median(cores[threads]) for threads in (1, 2))
    say(
        f"\n{OURS} at beam {options.tune_beam} on two threads: {ratio:.2f} times as fast by the "
        f"clock as on one. Where the cores were quiet, the one had 1 core and the two had 2; here "
        f"they had {one:.2f} and {two:.2f} (load {load:.1f} on {os.cpu_count()} before)."
    )
    return {
        "beam": options.tune_beam,
        "wall_seconds": wall,
        "cores": cores,
        "ratio": ratio,
        "load": load,
    }


def compare_tuned(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Time and errors on the second half of the matrices, each decoder with its own weights."""
    half = len(bench.references) // 2
    held_out = list(range(half, len(bench.references)))
    if options.tuned:
        saved = json.loads(options.tuned.read_text())
        weights = {c.name: saved[c.name] for c in bench.contestants if c.name in saved}
    else:
        weights = tune(bench, list(range(half)), options)
        write_json(options.output / "tuned.json", weights)
    cells: dict[str, Any] = {}
    errors: dict[tuple[str, int], np.ndarray] = {}
    with Bar("Held-out half", len(bench.contestants) * len(options.beams), "turns") as bar:
        for contestant in bench.contestants:
            cells[contestant.name] = {}
            for beam in options.beams:
                chosen = weights.get(contestant.name, {})
                answer = bench.decode(contestant, beam, held_out, LEAST_SECONDS, **chosen)
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
    say(f"\nTuned on the first {half}, decoded the other {len(held_out)}; one pass over each")
    for name, values in weights.items():
        say(f"{name:<36}" + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    say_table(cells, options.beams)
    say("\nOur WER minus the rival's in points, same beam, with its 95 % interval")
    for rival, _ in bench.rivals():
        differences = [cells[rival.name][beam]["ours_minus_this"] for beam in options.beams]
        texts = [f"{d['points']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]" for d in differences]
        say(f"{rival.name:<36}" + "".join(f"{text:>24}" for text in texts))
    return {"weights": weights, "cells": cells}


def bootstrap(differences: np.ndarray, words: np.ndarray, seed: int) -> dict[str, float]:
    """Mean difference of two error rates in points, and its paired 95 % bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(len(words), size=(RESAMPLES, len(words)))
    rates = 100 * differences[drawn].sum(axis=1) / words[drawn].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return {
        "points": 100 * float(differences.sum() / words.sum()),
        "low": float(low),
        "high": float(high),
    }


def tune(
    bench: Bench, utterances: list[int], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """The best weights of each decoder with a language model, all with the same trials.

    The first half of the trials is spread evenly over the ranges and the second half closely around
    the best of the first, both on every fourth utterance; the best sixth of all is tried on all
    utterances. The points are the same for all decoders.
    """
    generator = np.random.default_rng(options.seed)
    spread = latin_hypercube(generator, options.trials - options.trials // 2)
    around = (latin_hypercube(generator, options.trials // 2) - 0.5) * 0.4
    finalists = max(1, options.trials // 6)
    tuned = [c for c in bench.contestants if c.language_model]
    best: dict[str, dict[str, float]] = {}

    def measure(contestant: Contestant, point: np.ndarray, some: list[int]) -> float:
        weights = place(point, contestant)
        texts = bench.decode(contestant, options.tune_beam, some, **weights)["texts"]
        bar.advance(note=contestant.name)
        return bench.wer(some, texts)

    with Bar("Tuning", len(tuned) * (options.trials + finalists), "trials") as bar:
        for contestant in tuned:
            some = utterances[::4]
            tried = [(measure(contestant, point, some), point) for point in spread]
            center = min(tried, key=lambda trial: trial[0])[1]
            near = np.clip(center + around, 0, 1)
            tried += [(measure(contestant, point, some), point) for point in near]
            tried.sort(key=lambda trial: trial[0])
            final = [(measure(contestant, p, utterances), p) for _, p in tried[:finalists]]
            best[contestant.name] = place(min(final, key=lambda trial: trial[0])[1], contestant)
    return best


def latin_hypercube(generator: np.random.Generator, count: int) -> np.ndarray:
    """`count` points of the unit cube (count, 3) that are spread evenly along each side."""
    ranks = np.stack([generator.permutation(count) for _ in range(3)], axis=1)
    return (ranks + generator.random((count, 3))) / count


def place(point: np.ndarray, contestant: Contestant) -> dict[str, float]:
    """The weights that a point of the unit cube (3,) stands for."""
    ranges = {"alpha": ALPHAS, "beta": BETAS, "unknown": contestant.unknowns}
    return {
        name: low + float(share) * (high - low)
        for share, (name, (low, high)) in zip(point, ranges.items(), strict=True)
    }


def write_json(path: Path, data: Any) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def draw(results: dict[str, Any], path: Path) -> None:
    """WER against time, a line for each decoder, a point for each beam."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    panels = [
        (title, results[key]["cells"], language_model)
        for key, title, language_model in (
            ("same_weights", "language model, same weights", True),
            ("tuned", "language model, each tuned, held-out half", True),
            ("same_weights", "no language model", False),
        )
        if key in results
    ]
    figure = Figure(figsize=(6.5 * len(panels), 5.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (title, cells, language_model) in zip(axes, panels, strict=True):
        rates: list[float] = []
        for contestant in CONTESTANTS:
            if contestant.language_model != language_model or contestant.name not in cells:
                continue
            row = cells[contestant.name]
            x, y = [cell["ms"] for cell in row.values()], [cell["wer"] for cell in row.values()]
            width = 2.5 if contestant.ours else 1.3
            axis.plot(x, y, "o-", label=contestant.name, linewidth=width)
            for beam, *point in zip(row, x, y, strict=True):
                axis.annotate(
                    str(beam), point, textcoords="offset points", xytext=(4, 4), fontsize=7
                )
            rates += y
        middle, half = (max(rates) + min(rates)) / 2, (max(rates) - min(rates)) / 2
        half = max(1.2 * half, 0.5)  # rates that are all but equal shall look equal
        axis.set_ylim(middle - half, middle + 1.5 * half)  # the legend is at the top
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set(title=title, xlabel="CPU ms per second of audio, one thread", ylabel="WER in %")
        axis.grid(which="both", alpha=0.25)
        axis.legend(fontsize=8, loc="upper right")
    figure.suptitle("Error rate against time; the numbers are the beam")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except WorkerError as error:
        complain(f"benchmark_decoder.py: {error}")
        sys.exit(EXIT_CODE)
