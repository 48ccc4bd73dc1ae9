"""Hours of speech: is the text as good as that of single utterances, and does memory stay flat?

    python recipes/english/long_audio.py --manifest data/english/dev-librispeech.jsonl

First, a live stream gets `--stream-hours` of the manifest's recordings one after the other, with
pauses, as fast as it can. Its resident memory is read after each minute of audio.

Second, `--hours` of the same are written into one long recording. Its text is compared with that of
the same utterances transcribed one by one: at the default operating point and at a live one, with
endpoints and without. Words are assigned by their times to tenths of the recording, so that a
network that drifts shows as a slope.

Pauses last e^x seconds, with x uniform between the logarithms of `--pause`, and hold white noise at
`--floor`. The exit code is 1 if the WER of the long recording (default operating point) is higher
by more than 1.0 %, or the memory grows by 20 MB or more after its first ten minutes.
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
from measuring import amount, finish, load, make_parser, write_document

from asr.audio.waveform import read_blocks
from asr.checkpoint import Checkpoint
from asr.data.manifest import Utterance, read_manifest
from asr.decoder.hypothesis import Hypothesis
from asr.defaults import STREAM_LATENCY_MS
from asr.endpoint import EndpointConfig
from asr.errors import AsrError, FileError
from asr.evaluation import compute_hypotheses
from asr.files import write_atomically
from asr.progress import Bar, complain, say
from asr.recognizer import OperatingPoint, Recognizer
from asr.scoring import Report, score

LIMIT_EXCEEDED = 1
MOST_WORSE = 1.0  # allowed rise of the WER, absolute in %
MOST_GROWTH = 20.0  # allowed growth of the memory, in MB
SETTLING_MINUTES = 10  # of a stream before its memory counts; of a short stream the first half
PARTS = 10  # into which the recording is divided
PIECE_SECONDS = 0.1  # length of the pieces that a stream gets

Waveform = np.ndarray  # (n,) float32


@dataclass(frozen=True)
class Recording:
    """The long recording.

    Attributes:
        path: The file.
        seconds: Its length.
        indices: The indices in the manifest of its utterances, in their order.
        cuts: The middle of each pause but the last, in seconds.
    """

    path: Path
    seconds: float
    indices: list[int]
    cuts: list[float]


@dataclass(frozen=True)
class Row:
    """The long recording against its utterances one by one, at one operating point.

    Attributes:
        latency: Name of the latency.
        has_endpoints: Whether the recording was cut in pauses.
        wer_by_utterance: WER of the utterances, transcribed and scored one by one.
        alone: Report on the joined texts of the utterances transcribed one by one.
        alone_parts: The same by tenths of the recording.
        long: Report on the text of the long recording.
        parts: The same by tenths of the recording.
        cpu: Seconds of CPU time per second of the recording.
    """

    latency: str
    has_endpoints: bool
    wer_by_utterance: float
    alone: Report
    alone_parts: Report
    long: Report
    parts: Report
    cpu: float

    @property
    def worse(self) -> float:
        """WER of the long recording minus that of the single utterances, absolute in %."""
        return 100 * (self.long.wer - self.alone.wer)


@dataclass(frozen=True)
class Memory:
    """The memory of a long stream.

    Attributes:
        resident_mb: Resident memory after each minute, the first one before the stream begins.
        settled: Minutes before the memory counts.
        growth_mb: Largest growth after that.
        cpu: Seconds of CPU time per second of audio.
        words: Number of words in the stream.
        segments: Number of segments that endpoints ended.
    """

    resident_mb: list[float]
    settled: int
    growth_mb: float
    cpu: float
    words: int
    segments: int


def main(arguments: Sequence[str] | None = None) -> int:
    return finish("long_audio.py", partial(measure, parse(arguments)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/long-audio/results.json", profile="english")
    parser.add_argument(
        "--manifest", default="data/english/dev-librispeech.jsonl", help="JSONL (%(default)s)"
    )
    parser.add_argument("--lm", metavar="FILE", help="decode with beam and this language model")
    parser.add_argument(
        "--hours", type=amount, default=1.0, help="hours of the recording; 0: none (1)"
    )
    parser.add_argument(
        "--stream-hours",
        type=amount,
        default=10.0,
        metavar="H",
        help="hours of the stream; 0: none (10)",
    )
    parser.add_argument(
        "--latency",
        type=amount,
        default=STREAM_LATENCY_MS,
        metavar="MS",
        help="latency of the live operating point (%(default)g)",
    )
    parser.add_argument(
        "--pause",
        type=amount,
        nargs=2,
        default=[0.2, 3.0],
        metavar="S",
        help="shortest and longest pause (0.2 3)",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=-60.0,
        metavar="DB",
        help="level of the pauses below full scale (-60)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the pauses (1)")
    for key, value in asdict(EndpointConfig()).items():
        about = f"EndpointConfig.{key} ({value:g})"
        parser.add_argument(f"--{key}", type=float, default=value, metavar="X", help=about)
    options = parser.parse_args(arguments)
    if not 0 < options.pause[0] <= options.pause[1]:
        parser.error("--pause takes two numbers of seconds above 0, the smaller one first")
    if not options.hours + options.stream_hours:
        parser.error("--hours and --stream-hours are both 0; give at least one")
    return options


def measure(options: argparse.Namespace) -> int:
    """Do both parts, print the tables, write the file and the picture; return the exit code."""
    utterances = read_manifest(options.manifest)
    endpoint = EndpointConfig(**{key: getattr(options, key) for key in asdict(EndpointConfig())})
    loaded = load(Checkpoint.read(options.checkpoint), options, options.lm)
    recognizer = loaded.recognizer
    recognizer.check_operating_point(OperatingPoint(options.latency, endpoint))

    # The stream comes first: the text leaves freed memory behind, in which a leak could hide.
    memory = measure_memory(recognizer, utterances, endpoint, options)
    rows = measure_text(recognizer, utterances, endpoint, options)

    document = {
        "checkpoint": options.checkpoint,
        "manifest": options.manifest,
        "decoder": asdict(loaded.config),
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
        complain(f"Limit exceeded: {limit}.")
    return LIMIT_EXCEEDED if broken else 0


# The text


def measure_text(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    endpoint: EndpointConfig,
    options: argparse.Namespace,
) -> list[Row]:
    """Write the long recording, transcribe it at each operating point, print a line for each."""
    if not options.hours:
        return []
    rows = []
    latencies = {"default": None, f"{options.latency:g} ms": options.latency}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        recording = write(path, utterances, recognizer.sample_rate, options)
        say(
            f"\n{recording.seconds / 3600:.2f} hours: {len(recording.indices):,} utterances, "
            f"{len(set(recording.indices)):,} of them different"
        )
        say(
            f"{'latency':<10}{'endpoints':<11}{'each %':>8}{'one by one %':>14}{'long %':>8}"
            f"{'worse':>8}{'first tenth':>13}{'last tenth':>12}{'CPU s/s':>9}"
        )
        for name, latency_ms in latencies.items():
            point = OperatingPoint(latency_ms, endpoint=None)
            with Bar(f"one by one, {name}", len(utterances)) as bar:
                found = compute_hypotheses(recognizer, utterances, point, on_progress=bar.advance)
                alone = {utterance.id: hypothesis.text for utterance, hypothesis in found}
            for rule in (endpoint, None):
                point = OperatingPoint(latency_ms, rule)
                rows.append(compare(recognizer, point, utterances, alone, recording, name, options))
                say_row(rows[-1])
    return rows


def compare(
    recognizer: Recognizer,
    point: OperatingPoint,
    utterances: Sequence[Utterance],
    alone: Mapping[str, str],
    recording: Recording,
    name: str,
    options: argparse.Namespace,
) -> Row:
    """Transcribe the long recording and compare it with the texts `alone`, by utterance id."""
    began = time.process_time()
    with Bar(f"long recording, {name}", round(recording.seconds), "s") as bar:
        hypothesis = recognizer.transcribe(recording.path, point, bar.advance)
    cpu = (time.process_time() - began) / recording.seconds

    bounds = edges(len(recording.indices))
    references = [utterances[index].text for index in recording.indices]
    singles = [alone[utterances[index].id] for index in recording.indices]
    words = divide(hypothesis, [recording.cuts[bound - 1] for bound in bounds[1:-1]])

    def join(texts: Sequence[str]) -> dict[str, str]:
        return {str(a): " ".join(texts[a:b]) for a, b in pairwise(bounds)}

    each = {str(number): text for number, text in enumerate(references)}
    return Row(
        latency=name,
        has_endpoints=point.endpoint is not None,
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
    """The index of the first utterance of each tenth, and the number of utterances."""
    parts = min(PARTS, utterances)
    return [utterances * part // parts for part in range(parts + 1)]


def divide(hypothesis: Hypothesis, cuts: Sequence[float]) -> list[str]:
    """Divide the words at some seconds into texts; a word belongs to the part of its middle."""
    words: list[list[str]] = [[] for _ in range(len(cuts) + 1)]
    for word in hypothesis.words:
        words[bisect_right(cuts, (word.start + word.end) / 2)].append(word.text)
    return [" ".join(part) for part in words]


def say_row(row: Row) -> None:
    """Print a row of the table."""
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
    """A row as plain JSON data; rates are fractions, those of parts in %."""
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
    """Repeat a manifest's recordings without end: blocks (n,), each with its utterance's index.

    The index of a pause is None. Raises AudioError for a recording that cannot be read.
    """
    random = np.random.default_rng(options.seed)
    level = 10 ** (options.floor / 20)
    shortest, longest = (math.log(seconds) for seconds in options.pause)
    for index in cycle(range(len(utterances))):
        for block in read_blocks(utterances[index].audio, sample_rate):
            yield index, block
        pause = round(math.exp(random.uniform(shortest, longest)) * sample_rate)
        yield None, random.normal(0, level, pause).astype(np.float32)


def write(
    path: Path, utterances: Sequence[Utterance], sample_rate: int, options: argparse.Namespace
) -> Recording:
    """Write whole utterances until they last `--hours`. Raises FileError."""
    wanted = round(3600 * options.hours * sample_rate)
    indices: list[int] = []
    cuts: list[float] = []
    written = 0
    is_pause = True
    try:
        with (
            soundfile.SoundFile(path, "w", sample_rate, 1, "PCM_16", format="RF64") as file,
            Bar("writing the long recording", round(3600 * options.hours), "s") as bar,
        ):
            for index, block in concatenate(utterances, sample_rate, options):
                if index is None:
                    cuts.append((written + len(block) / 2) / sample_rate)
                elif is_pause:  # an utterance begins
                    if written >= wanted:
                        break
                    indices.append(index)
                is_pause = index is None
                file.write(block)
                written += len(block)
                bar.advance(len(block) / sample_rate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise FileError(
            f"the long recording cannot be written ({error}); free {2 * wanted / 1e6:,.0f} MB in the "
            "folder of temporary files, or choose another one by TMPDIR"
        ) from error
    return Recording(path, written / sample_rate, indices, cuts[:-1])


# The memory


def measure_memory(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    endpoint: EndpointConfig,
    options: argparse.Namespace,
) -> Memory | None:
    """Run a live stream as fast as it can, and print how its memory grew."""
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
    """The resident memory of this process, in MB. Raises AsrError if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError as error:
        raise AsrError(
            "the memory of a process cannot be read from /proc, which only Linux has; measure there"
        ) from error
    return pages * resource.getpagesize() / 1e6


def draw(rows: Sequence[Row], memory: Memory | None, path: Path) -> None:
    """Draw the stream's memory over the hours, and the WER of the recording's tenths."""
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
    """Draw the WER of the recording's tenths at each operating point, and one by one."""
    names = dict.fromkeys(row.latency for row in rows)
    colors = dict(zip(names, ("C0", "C1"), strict=False))
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
