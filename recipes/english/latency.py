"""WER against latency: what each operating point of a checkpoint costs, as a table and a picture.

    python recipes/english/latency.py                   # the dev sets that prepare.py wrote
    python recipes/english/latency.py --manifest tests=tests.jsonl --forward runs/forward/best.pt

The latency is the algorithm's own: how long after a sound its text can come if computing took no
time (`AcousticModel.latency_seconds`). A source with another sample rate than the model's waits for
its resampler as well. Recordings are read without endpoints, so that only the encoder's chunk and
right context differ. The second table divides one latency between the two in other ways.

A forward encoder (`--forward`, or the checkpoint itself) has one WER: that of its lowest latency.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from evaluate import Rates, rates
from measuring import (
    add_sets,
    finish,
    list_failures,
    load,
    make_parser,
    measure_set,
    read_sets,
    write_document,
)

from asr.audio.recording import TOLERANCE_SECONDS
from asr.audio.waveform import Resampler, read_blocks
from asr.checkpoint import Checkpoint
from asr.cli.options import positive
from asr.data.manifest import Utterance
from asr.encoder import Context
from asr.errors import AsrError, ConfigError, DataError
from asr.files import write_atomically
from asr.progress import Bar, say
from asr.recognizer import OperatingPoint
from asr.scoring import Report, compare_wer
from asr.stream import Stream

QUARTERS = 4  # right contexts to try, in quarters of a latency's frames
STYLES = {"greedy": "o-", "beam": "s--"}  # of lines, by decoder
PIECE_SECONDS = 0.1  # length of the pieces of the stream whose computing is timed

Reports = dict[str, dict[str, Report]]
"""Reports by set, then by decoder."""


@dataclass
class Point:
    """What was measured at one operating point.

    Attributes:
        context: The encoder's chunk and right context.
        latency_ms: The algorithm's latency; None: the whole recording.
        reports: The reports by set and decoder.
        rates: The rates of these reports.
        cpu: Seconds of CPU time per second of a stream.
    """

    context: Context
    latency_ms: float | None
    reports: Reports
    rates: dict[str, dict[str, Rates]]
    cpu: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    return finish("latency.py", partial(measure, parse(arguments)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/english/latency.json", profile="english")
    add_sets(parser)
    parser.add_argument(
        "--forward", metavar="FILE", help="checkpoint of a forward encoder to compare with"
    )
    parser.add_argument(
        "--lm", type=Path, metavar="FILE", help="decode with beam and this language model as well"
    )
    parser.add_argument(
        "--latency",
        type=above_zero,
        nargs="+",
        metavar="MS",
        default=[160.0, 320.0, 640.0, 1280.0],
        help="latencies between the lowest and the whole recording (160 320 640 1280)",
    )
    parser.add_argument(
        "--split",
        type=above_zero,
        nargs="*",
        metavar="MS",
        default=[640.0],
        help="latencies to divide between chunk and right context in other ways (640)",
    )
    parser.add_argument(
        "--source-rate",
        type=positive,
        nargs="*",
        metavar="HZ",
        default=[8_000, 44_100, 48_000],
        help="sample rates of sources whose resampler is measured (8000 44100 48000)",
    )
    parser.add_argument(
        "--live-seconds",
        type=above_zero,
        default=60.0,
        metavar="S",
        help="length of the stream whose computing is timed (60)",
    )
    return parser.parse_args(arguments)


def above_zero(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def measure(options: argparse.Namespace) -> int:
    """Print the tables, write the file and the picture, and return the exit code."""
    manifests, sets = read_sets(options)
    meter = Meter(options.checkpoint, sets, options)
    forward = Meter(options.forward, sets, options) if options.forward else None
    if forward and forward.kind != "forward":
        raise ConfigError(
            f"{options.forward} holds a {forward.kind} encoder, not a forward one; give it as "
            "--checkpoint"
        )
    contexts = meter.operating_points(options.latency)
    splits = meter.divide(options.split)

    rate = meter.recognizer.sample_rate
    waits = {source: resampler_wait(source, rate) for source in options.source_rate}
    say(heading(waits, meter.decoders))
    points = []
    for context in contexts:
        points.append(meter.measure(context))
        say_point(points[-1], waits)
    baseline = None
    if forward:
        say(f"a forward encoder, {options.forward}:")
        baseline = forward.measure(Context(1))
        say_point(baseline, waits)
    divided: dict[float, list[Point]] = {}
    for latency, shares in splits.items():
        divided[latency] = [meter.measure(context) for context in shares]
        say_shares(latency, divided[latency], even=meter.recognizer.model.context(latency))

    document = {
        "checkpoint": options.checkpoint,
        "forward_checkpoint": options.forward,
        "decoder": asdict(meter.config),
        "profile": options.profile,
        "manifests": {name: str(path) for name, path in manifests.items()},
        "resampler_ms": {source: 1000 * seconds for source, seconds in waits.items()},
        "points": [to_dict(point) for point in points],
        "forward": to_dict(baseline) if baseline else None,
        "splits": {f"{ms:g}": [to_dict(point) for point in found] for ms, found in divided.items()},
        "unread": sorted(meter.failures),
    }
    write_document(options.output, document)
    picture = options.output.with_suffix(".png")
    draw(points, baseline, divided, picture)
    say(f"Figures: {options.output}; picture: {picture}")
    return list_failures(meter.failures.values())


class Meter:
    """A checkpoint and its decoders, to be measured on the sets at several operating points."""

    def __init__(
        self,
        checkpoint: str,
        sets: Mapping[str, Sequence[Utterance]],
        options: argparse.Namespace,
    ) -> None:
        """Raises AsrError if the checkpoint cannot stream, or a file cannot be used."""
        loaded = load(Checkpoint.read(checkpoint), options, options.lm)
        self.recognizer, self.decoders, self.config = (
            loaded.recognizer,
            loaded.decoders,
            loaded.config,
        )
        self.recognizer.model.encoder.require_streaming()
        self.failures: dict[str, str] = {}  # by set and id
        self._options = options
        self._sets = sets
        longest = max(utterance.seconds for utterance in chain.from_iterable(sets.values()))
        frame = self.recognizer.model.frame_seconds
        self._whole = Context(math.ceil((longest + TOLERANCE_SECONDS) / frame))
        self._live_seconds = options.live_seconds

    @property
    def kind(self) -> str:
        """The kind of the encoder."""
        return self.recognizer.model.encoder.config.kind

    def operating_points(self, latencies: Sequence[float]) -> list[Context]:
        """The contexts from a single frame to the whole recording; for a forward encoder one frame.

        Raises ConfigError for a latency in milliseconds that the model cannot keep.
        """
        between = [self.recognizer.model.context(latency) for latency in sorted(latencies)]
        if self.kind == "forward":
            return [Context(1)]
        return list(dict.fromkeys([Context(1), *between, self._whole]))

    def divide(self, latencies: Sequence[float]) -> dict[float, list[Context]]:
        """The contexts of each latency, of which 0 to 3 quarters are right context.

        A forward encoder has nothing to divide. Raises ConfigError as `operating_points` does.
        """
        found = {}
        for latency in latencies:
            frames = self.recognizer.model.context(latency).frames
            rights = dict.fromkeys(frames * share // QUARTERS for share in range(QUARTERS))
            found[latency] = [Context(frames - right, right) for right in rights]
        return {} if self.kind == "forward" else found

    def measure(self, context: Context) -> Point:
        """Transcribe all sets with one context of the encoder."""
        label = f"{context.chunk} + {context.right} frames"
        point = OperatingPoint(context=context, endpoint=None)
        reports = {name: self._evaluate(name, label, point) for name in self._sets}
        found = {
            name: {kind: rates(report) for kind, report in each.items()}
            for name, each in reports.items()
        }
        if context == self._whole:
            return Point(context, None, reports, found, None)
        latency_ms = 1000 * self.recognizer.model.latency_seconds(context)
        return Point(context, latency_ms, reports, found, self._time(context, label))

    def _evaluate(self, name: str, label: str, point: OperatingPoint) -> dict[str, Report]:
        """The report of each decoder on a set."""
        measured = measure_set(
            self.recognizer,
            self.decoders,
            self._sets[name],
            self._options,
            f"{name}, {label}",
            point,
        )
        for id, error in measured.errors.items():
            self.failures[f"{name}, {id}"] = f"{name}, {id}: {error}"
        return measured.reports

    def _time(self, context: Context, label: str) -> float:
        """Measure the CPU seconds, of all cores together, per second of one greedy stream."""
        stream = Stream(self.recognizer.model, self.decoders["greedy"], context)
        step = round(PIECE_SECONDS * self.recognizer.sample_rate)
        used = 0.0
        with Bar(f"streaming, {label}", self._live_seconds, "s") as bar:
            for piece in self._pieces(step):
                began = time.process_time()
                stream.accept(piece)
                used += time.process_time() - began
                bar.advance(len(piece) / self.recognizer.sample_rate)
                if stream.seconds >= self._live_seconds:
                    break
            if not stream.seconds:
                raise DataError(
                    "none of the recordings can be read; check the paths in the manifests"
                )
            began = time.process_time()
            stream.finish()
        return (used + time.process_time() - began) / stream.seconds

    def _pieces(self, step: int) -> Iterator[np.ndarray]:
        """Yield the sets' readable recordings one after the other, in pieces (n,)."""
        for utterance in chain.from_iterable(self._sets.values()):
            try:
                for block in read_blocks(utterance.audio, self.recognizer.sample_rate):
                    for begin in range(0, len(block), step):
                        yield block[begin : begin + step]
            except AsrError:
                continue  # reported when its words are scored


def resampler_wait(source_rate: int, target_rate: int) -> float:
    """Measure, sample by sample, the most seconds that a sound waits in the resampler."""
    resampler = Resampler(source_rate, target_rate)
    longest = 0.0
    done = 0
    sample = np.zeros(1, np.float32)
    for taken in range(2 * source_rate):
        out = len(resampler.feed(sample))
        if out:
            longest = max(longest, taken / source_rate - done / target_rate)
        done += out
    return longest


def heading(waits: Mapping[int, float], decoders: Iterable[str]) -> str:
    """The titles of the first table's columns."""
    sources = "".join(f"{f'from {rate:,} Hz':>17}" for rate in waits)
    errors = "".join(f"{f'WER {kind}, %':>24}" for kind in decoders)
    return f"{'latency, ms':<11}{sources}{'chunk + right':>15}{'CPU s/s':>9}  {'set':<16}{errors}"


def say_point(point: Point, waits: Mapping[int, float]) -> None:
    """Print an operating point's rows of the first table, one per set."""
    latencies = ["whole", *[""] * len(waits)]
    if point.latency_ms is not None:
        latencies = [f"{point.latency_ms + 1000 * wait:.0f}" for wait in (0, *waits.values())]
    first, others = latencies[0], "".join(f"{latency:>17}" for latency in latencies[1:])
    cpu = "" if point.cpu is None else f"{point.cpu:.4f}"
    begin = f"{first:<11}{others}{share(point):>15}{cpu:>9}  "
    for name, found in point.rates.items():
        say(f"{begin}{name:<16}{''.join(f'{interval(each):>24}' for each in found.values())}")
        begin = " " * len(begin)


def say_shares(latency: float, points: Sequence[Point], even: Context) -> None:
    """Print the second table: the ways to divide a latency, each compared with the even one."""
    say(
        f"\n{latency:g} ms, divided; differences from the even split, with 95 % confidence intervals"
    )
    say(f"{'chunk + right':<15}{'CPU s/s':>8}  {'set':<16}{'decoder':<8}{'WER, %':>8}  difference")
    [middle] = [point for point in points if point.context == even]
    for point in points:
        begin = f"{share(point):<15}{point.cpu:>8.4f}  "
        for name, reports in point.reports.items():
            for kind, report in reports.items():
                mean, low, high = compare_wer(report, middle.reports[name][kind])
                shown = f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
                shown = "" if point is middle else f"  {shown}"
                say(f"{begin}{name:<16}{kind:<8}{100 * report.wer:>8.2f}{shown}")
                begin = " " * len(begin)


def share(point: Point) -> str:
    """A context as the tables show it: "6 + 6"."""
    return f"{point.context.chunk} + {point.context.right}"


def interval(found: Rates) -> str:
    """A WER with its interval, in percent."""
    wer, low, high = (100 * found[key] for key in ("wer", "low", "high"))
    return f"{wer:.2f} [{low:.2f}, {high:.2f}]"


def to_dict(point: Point) -> dict[str, Any]:
    """An operating point as plain JSON data."""
    return {
        "chunk": point.context.chunk,
        "right": point.context.right,
        "latency_ms": point.latency_ms,
        "cpu_seconds_per_second": point.cpu,
        "sets": point.rates,
    }


def draw(
    points: Sequence[Point],
    forward: Point | None,
    divided: Mapping[float, Sequence[Point]],
    path: Path,
) -> None:
    """Draw the WER over the latency, and over the share of a latency that is right context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes, shares = figure.subplots(1, 2)
    draw_latencies(axes, points, forward)
    draw_shares(shares, divided)
    for panel in (axes, shares):
        panel.grid(alpha=0.3)
        if panel.get_lines():
            panel.set_ylim(bottom=0)
            panel.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_latencies(axes: Any, points: Sequence[Point], forward: Point | None) -> None:
    """Draw the WER of each set and decoder over the latency, a forward encoder's as a level."""
    from matplotlib.ticker import FixedLocator, NullLocator

    finite = [point.latency_ms for point in points if point.latency_ms is not None]
    whole = 2 * max(finite)  # position of the whole recording on the axis
    x = [whole if point.latency_ms is None else point.latency_ms for point in points]
    for number, name in enumerate(points[0].reports):
        for kind in points[0].reports[name]:
            color, label = f"C{number}", f"{name}, {kind}"
            axes.plot(x, wers(points, name, kind), STYLES[kind], color=color, label=label)
            if forward:
                [level] = wers([forward], name, kind)
                label = f"{label}, forward"
                axes.plot([forward.latency_ms, whole], [level] * 2, ":", color=color, label=label)
    axes.set(
        xscale="log",
        xlabel="latency of the algorithm, ms",
        ylabel="WER, %",
        title="WER against latency",
    )
    axes.xaxis.set_major_locator(FixedLocator([*finite, whole]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([*(f"{latency:.0f}" for latency in finite), "whole"])


def draw_shares(axes: Any, divided: Mapping[float, Sequence[Point]]) -> None:
    """Draw the WER over the share of each latency that is right context."""
    number = 0
    for latency, found in divided.items():
        x = [100 * point.context.right / point.context.frames for point in found]
        for name in found[0].reports:
            for kind in found[0].reports[name]:
                label = f"{name}, {kind}, {latency:g} ms"
                rates = wers(found, name, kind)
                axes.plot(x, rates, STYLES[kind], color=f"C{number}", label=label)
            number += 1
    axes.set(xlabel="right context, % of its frames", ylabel="WER, %", title="one latency, divided")


def wers(points: Sequence[Point], name: str, kind: str) -> list[float]:
    """The WER, in percent, of a set and a decoder at each operating point."""
    return [100 * point.reports[name][kind].wer for point in points]


if __name__ == "__main__":
    sys.exit(main())
