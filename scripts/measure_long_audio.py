"""Hours of speech: is the text as good as of single utterances, and does the memory stay flat?

    python scripts/measure_long_audio.py --manifest data/english/dev-librispeech.jsonl

First, a live stream is fed `--stream-hours` of the manifest's recordings one after the other, with
pauses, as fast as it goes. Its resident memory is read after each minute of audio.

Second, `--hours` of the same are written into one long recording. Its text, whole against whole, is
compared with the same utterances decoded one by one: at the default operating point and at a live
one, with endpoints and without. Words are told apart by their times into tenths of the recording,
so that a network that drifts shows as a slope.

Pauses are as long as e^x, x uniform between the logarithms of `--pause`, and hold white noise at
`--floor`. The exit code is 1 where the WER of the long recording (default operating point) is
higher by more than 1.0, or the memory grows by 20 MB or more after its first ten minutes.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asr.audio.waveform import read_blocks
from asr.data.manifest import Utterance, read_manifest
from asr.decoder.hypothesis import Hypothesis
from asr.defaults import STREAM_LATENCY_MS
from asr.encoder import Context
from asr.endpoint import EndpointConfig
from asr.errors import AsrError, FileError
from asr.files import write_atomically
from asr.measuring import amount, finish, load, make_parser, write_document
from asr.progress import Bar, complain, say, track
from asr.recognizer import Recognizer
from asr.scoring import Report, score

LIMIT_EXCEEDED = 1
MOST_WORSE = 1.0  # WER, absolute in %
MOST_GROWTH = 20.0  # MB
SETTLING_MINUTES = 10  # of a stream, before its memory counts; half of a short one
PARTS = 10  # of the recording
PIECE_SECONDS = 0.1  # that a stream is fed with

Waveform = np.ndarray  # (n,) float32


@dataclass(frozen=True)
class Recording:
    """The long recording: which utterances of the manifest it holds, and where they are parted."""

    path: Path
    seconds: float
    places: list[int]  # in the manifest, in the recording's order
    cuts: list[float]  # seconds: the middle of each pause but the last


@dataclass(frozen=True)
class Row:
    """An operating point: the long recording against its utterances one by one.

    Each report is of the whole text; `parts` and `alone_parts` are of the tenths of it.
    """

    latency: str
    has_endpoints: bool
    wer_by_utterance: float  # one by one, and scored one by one: no word may stray to a neighbor
    alone: Report
    alone_parts: Report
    long: Report
    parts: Report
    cpu: float  # seconds of a CPU per second of the recording

    @property
    def worse(self) -> float:
        """WER of the long recording minus that one by one, absolute in %."""
        return 100 * (self.long.wer - self.alone.wer)


@dataclass(frozen=True)
class Memory:
    """A long stream: its memory, one figure a minute, the first before it begins."""

    resident_mb: list[float]
    settled: int  # minutes before it counts
    growth_mb: float  # the most of all later minutes
    cpu: float  # seconds of a CPU per second of audio
    words: int
    segments: int


def main(arguments: Sequence[str] | None = None) -> int:
    return finish("measure_long_audio.py", partial(measure, parse(arguments)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/long-audio/results.json", profile="english")
    parser.add_argument(
        "--manifest", default="data/english/dev-librispeech.jsonl", help="JSONL (%(default)s)"
    )
    parser.add_argument("--lm", metavar="FILE", help="decode with beam and this language model")
    parser.add_argument("--hours", type=amount, default=1.0, help="of the recording; 0: none (1)")
    parser.add_argument(
        "--stream-hours", type=amount, default=10.0, metavar="H", help="of the stream; 0: none (10)"
    )
    parser.add_argument(
        "--latency",
        type=amount,
        default=STREAM_LATENCY_MS,
        metavar="MS",
        help="live operating point (%(default)g)",
    )
    parser.add_argument(
        "--pause",
        type=amount,
        nargs=2,
        default=[0.2, 3.0],
        metavar="S",
        help="shortest and longest (0.2 3)",
    )
    parser.add_argument(
        "--floor", type=float, default=-60.0, metavar="DB", help="of the pauses (-60), full scale 0"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the pauses (1)")
    defaults = EndpointConfig()
    for key, value in asdict(defaults).items():
        parser.add_argument(
            f"--{key}", type=float, default=value, metavar="X", help=f"of endpoints ({value:g})"
        )
    options = parser.parse_args(arguments)
    if not 0 < options.pause[0] <= options.pause[1]:
        parser.error("--pause takes two numbers of seconds above 0, the smaller one first")
    if not options.hours + options.stream_hours:
        parser.error("--hours and --stream-hours are both 0: nothing to do")
    return options


def measure(options: argparse.Namespace) -> int:
    """Do both parts, print the tables, write the file and the picture; the exit code."""
    utterances = read_manifest(options.manifest)
    endpoint = EndpointConfig(**{key: getattr(options, key) for key in asdict(EndpointConfig())})
    recognizer, _, config = load(options.checkpoint, options, options.lm)
    recognizer.model.encoder.require_streaming()
    live = recognizer.model.context(options.latency)

    contexts = {"default": recognizer.context, f"{options.latency:g} ms": live}
    # The stream first: the text leaves freed memory behind, in which a leak could hide.
    memory = measure_memory(recognizer, utterances, endpoint, options)
    rows = measure_text(recognizer, utterances, contexts, endpoint, options)

    document = {
        "checkpoint": options.checkpoint,
        "manifest": options.manifest,
        "decoder": asdict(config),
        "endpoint": asdict(endpoint),
        "profile": options.profile,
        "pause_seconds": options.pause,
        "floor_db": options.floor,
        "seed": options.seed,
        "hours": options.hours,
        "text": [to_dict(row) for row in rows],
        "stream_hours": options.stream_hours,
        "stream_latency_ms": options.latency,
        "stream": asdict(memory) if memory else None,
    }
    write_document(options.output, document)
    picture = options.output.with_suffix(".png")
    draw(rows, memory, picture)
    say(f"Figures: {options.output}; picture: {picture}")

    broken = []
    if rows and rows[0].worse > MOST_WORSE:
        broken.append(f"the WER rises by {rows[0].worse:.2f}, more than {MOST_WORSE}")
    if memory and memory.growth_mb >= MOST_GROWTH:
        broken.append(f"the memory grows by {memory.growth_mb:.1f} MB, {MOST_GROWTH:g} or more")
    for limit in broken:
        complain(f"Not as it should be: {limit}.")
    return LIMIT_EXCEEDED if broken else 0


# The text


def measure_text(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    contexts: Mapping[str, Context],
    endpoint: EndpointConfig,
    options: argparse.Namespace,
) -> list[Row]:
    """Write the long recording and hear it at each operating point; print a line for each."""
    if not options.hours:
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        recording = write(path, utterances, recognizer.sample_rate, options)
        say(
            f"\n{recording.seconds / 3600:.2f} hours: {len(recording.places):,} utterances, "
            f"{len(set(recording.places)):,} of them different"
        )
        say(
            f"{'latency':<10}{'endpoints':<11}{'each %':>8}{'one by one %':>14}{'long %':>8}"
            f"{'worse':>8}{'first tenth':>13}{'last tenth':>12}{'CPU s/s':>9}"
        )
        for name, context in contexts.items():
            recognizer.context, recognizer.endpoint = context, None
            alone = transcribe_each(recognizer, utterances, name)
            for rule in (endpoint, None):
                recognizer.endpoint = rule
                rows.append(compare(recognizer, utterances, alone, recording, name, options))
                say_row(rows[-1])
    return rows


def transcribe_each(
    recognizer: Recognizer, utterances: Sequence[Utterance], name: str
) -> list[str]:
    """The text of every utterance, heard by itself without endpoints."""
    order = sorted(range(len(utterances)), key=lambda index: -utterances[index].seconds)
    sources = ((utterances[index].audio, utterances[index].seconds) for index in order)
    texts = [""] * len(utterances)
    found = track(recognizer.transcribe_many(sources), f"one by one, {name}", len(order))
    for place, result in found:
        if isinstance(result, AsrError):
            raise result
        texts[order[place]] = result.text
    return texts


def compare(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    alone: Sequence[str],
    recording: Recording,
    name: str,
    options: argparse.Namespace,
) -> Row:
    """Hear the long recording at the recognizer's operating point."""
    began = time.process_time()
    with Bar(f"long recording, {name}", round(recording.seconds), "s") as bar:
        hypothesis = recognizer.transcribe(recording.path, bar.advance)
    cpu = (time.process_time() - began) / recording.seconds

    bounds = edges(len(recording.places))
    references = [utterances[index].text for index in recording.places]
    singles = [alone[index] for index in recording.places]
    words = divide(hypothesis, [recording.cuts[bound - 1] for bound in bounds[1:-1]])

    def join(texts: Sequence[str]) -> dict[str, str]:
        return {str(a): " ".join(texts[a:b]) for a, b in pairwise(bounds)}

    each = {str(number): text for number, text in enumerate(references)}
    return Row(
        latency=name,
        has_endpoints=recognizer.endpoint is not None,
        wer_by_utterance=score(each, dict(zip(each, singles, strict=True)), options.profile).wer,
        alone=score({"": " ".join(references)}, {"": " ".join(singles)}, options.profile),
        alone_parts=score(join(references), join(singles), options.profile),
        long=score({"": " ".join(references)}, {"": hypothesis.text}, options.profile),
        parts=score(
            join(references), dict(zip(join(references), words, strict=True)), options.profile
        ),
        cpu=cpu,
    )


def edges(utterances: int) -> list[int]:
    """Where each tenth of so many utterances begins, and the end."""
    parts = min(PARTS, utterances)
    return [utterances * part // parts for part in range(parts + 1)]


def divide(hypothesis: Hypothesis, cuts: Sequence[float]) -> list[str]:
    """The texts before, between and after some seconds; a word belongs to where its middle is."""
    words: list[list[str]] = [[] for _ in range(len(cuts) + 1)]
    for word in hypothesis.words:
        words[bisect_right(cuts, (word.start + word.end) / 2)].append(word.text)
    return [" ".join(part) for part in words]


def say_row(row: Row) -> None:
    endpoints = "yes" if row.has_endpoints else "no"
    first, *_, last = [*part_wers(row.parts)] * 2  # there may be a single part
    say(
        f"{row.latency:<10}{endpoints:<11}{100 * row.wer_by_utterance:>8.2f}"
        f"{100 * row.alone.wer:>14.2f}{100 * row.long.wer:>8.2f}{row.worse:>+8.2f}"
        f"{first:>13.2f}{last:>12.2f}{row.cpu:>9.4f}"
    )


def part_wers(report: Report) -> list[float]:
    """The WER of each part, in %."""
    return [100 * part.errors / max(part.words, 1) for part in report.utterances]


def to_dict(row: Row) -> dict[str, Any]:
    """Plain JSON data; rates are fractions, those of parts in %."""
    return {
        "latency": row.latency,
        "endpoints": row.has_endpoints,
        "wer_by_utterance": row.wer_by_utterance,
        "wer_one_by_one": row.alone.wer,
        "wer_long": row.long.wer,
        "words": row.long.words,
        "substitutions": row.long.substitutions,
        "insertions": row.long.insertions,
        "deletions": row.long.deletions,
        "worse_percent": row.worse,
        "parts_one_by_one_percent": part_wers(row.alone_parts),
        "parts_long_percent": part_wers(row.parts),
        "cpu_seconds_per_second": row.cpu,
    }


# Recordings one after the other


def concatenate(
    utterances: Sequence[Utterance], sample_rate: int, options: argparse.Namespace
) -> Iterator[tuple[int | None, Waveform]]:
    """Endlessly the recordings of a manifest: waveforms (n,), each with its place, None in pauses.

    Nothing is held but a block. Raises AudioError for a recording that cannot be read.
    """
    random = np.random.default_rng(options.seed)
    level = 10 ** (options.floor / 20)
    shortest, longest = (math.log(seconds) for seconds in options.pause)
    for place in cycle(range(len(utterances))):
        for block in read_blocks(utterances[place].audio, sample_rate):
            yield place, block
        pause = round(math.exp(random.uniform(shortest, longest)) * sample_rate)
        yield None, random.normal(0, level, pause).astype(np.float32)


def write(
    path: Path, utterances: Sequence[Utterance], sample_rate: int, options: argparse.Namespace
) -> Recording:
    """Write whole utterances until `--hours` are full. Raises FileError."""
    wanted = round(3600 * options.hours * sample_rate)
    places: list[int] = []
    cuts: list[float] = []
    written = 0
    is_pause = True
    try:
        with (
            soundfile.SoundFile(path, "w", sample_rate, 1, "PCM_16", format="RF64") as file,
            Bar("writing the long recording", round(3600 * options.hours), "s") as bar,
        ):
            for place, block in concatenate(utterances, sample_rate, options):
                if place is None:
                    cuts.append((written + len(block) / 2) / sample_rate)
                elif is_pause:  # an utterance begins
                    if written >= wanted:
                        break
                    places.append(place)
                is_pause = place is None
                file.write(block)
                written += len(block)
                bar.advance(len(block) / sample_rate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise FileError(
            f"The long recording could not be written ({error}); it needs "
            f"{2 * wanted / 1e6:,.0f} MB where temporary files go: free some space, or choose "
            "another folder by TMPDIR."
        ) from error
    return Recording(path, written / sample_rate, places, cuts[:-1])


# The memory


def measure_memory(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    endpoint: EndpointConfig,
    options: argparse.Namespace,
) -> Memory | None:
    """Feed a live stream as fast as it goes, and print what it took."""
    if not options.stream_hours:
        return None
    rate = recognizer.sample_rate
    step = round(PIECE_SECONDS * rate)
    minutes = math.ceil(60 * options.stream_hours)
    settled = min(SETTLING_MINUTES, minutes // 2)
    stream = recognizer.stream(options.latency, endpoint)
    resident = [resident_mb()]
    used = 0.0
    words = segments = 0
    with Bar("streaming", minutes, "min") as bar:
        for _, block in concatenate(utterances, rate, options):
            for begin in range(0, len(block), step):
                began = time.process_time()
                partial = stream.accept(block[begin : begin + step])
                used += time.process_time() - began
                segments += len(partial.segments)
                words += sum(len(segment.words) for segment in partial.segments)
            while stream.seconds >= 60 * len(resident) and len(resident) <= minutes:
                resident.append(resident_mb())
                bar.advance(1, f"{resident[-1]:.0f} MB")
            if len(resident) > minutes:
                break
    cpu = used / stream.seconds
    words += len(stream.finish().words)
    growth = max(resident[settled:]) - resident[settled]
    say(
        f"{minutes / 60:.2f} hours of stream at {options.latency:g} ms, in pieces of "
        f"{1000 * PIECE_SECONDS:.0f} ms: {words:,} words in {segments:,} segments, "
        f"{cpu:.4f} s of CPU per second"
    )
    say(f"{'minute':>8}{'resident MB':>13}")
    for minute in sorted({0, settled, *range(0, minutes + 1, max(60, minutes // 10)), minutes}):
        say(f"{minute:>8}{resident[minute]:>13.1f}")
    say(f"Growth after minute {settled}: at most {growth:.1f} MB.")
    return Memory(resident, settled, growth, cpu, words, segments)


def resident_mb() -> float:
    """Megabytes of this process that are in the memory. Raises AsrError where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError as error:
        raise AsrError(
            "The memory of a process is read from /proc, which only Linux has; measure there."
        ) from error
    return pages * resource.getpagesize() / 1e6


def draw(rows: Sequence[Row], memory: Memory | None, path: Path) -> None:
    """What was measured: the stream's memory over the hours, the WER of the recording's tenths."""
    from matplotlib.figure import Figure

    panels = bool(memory) + bool(rows)
    figure = Figure(figsize=(6 * panels, 4.5), layout="constrained")
    [axes] = figure.subplots(1, panels, squeeze=False)
    if memory:
        hours = np.arange(len(memory.resident_mb)) / 60
        axes[0].plot(hours, memory.resident_mb)
        axes[0].axvline(hours[memory.settled], color="0.6", linestyle=":")
        axes[0].set(xlabel="hours of stream", ylabel="resident memory, MB", title="live stream")
        axes[0].set_ylim(0, 1.2 * max(memory.resident_mb))
    if rows:
        draw_parts(axes[-1], rows)
    for panel in axes:
        panel.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_parts(axes: Any, rows: Sequence[Row]) -> None:
    """The WER of the recording's tenths at each operating point, and one by one."""
    colors = {latency: f"C{place}" for place, latency in enumerate({r.latency: 0 for r in rows})}
    for row in rows:
        look: dict[str, Any] = {"color": colors[row.latency], "marker": "o", "markersize": 3}
        label = f"{row.latency}, {'endpoints' if row.has_endpoints else 'no endpoints'}"
        numbers = range(1, len(row.parts.utterances) + 1)
        style = "-" if row.has_endpoints else "--"
        axes.plot(numbers, part_wers(row.parts), style, label=label, **look)
        if row.has_endpoints:
            label = f"{row.latency}, one by one"
            axes.plot(numbers, part_wers(row.alone_parts), ":", label=label, **look)
    axes.set(xlabel="tenth of the recording", ylabel="WER, %", title="long recording")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
