"""The cost of a whole process `asr transcribe FILE`, compared with pocketsphinx 5.

    python scripts/benchmarks/transcription.py --manifest data/english/dev-librispeech.jsonl

The manifest's recordings are joined, with pauses, to one long recording, which both transcribe in
turn on one core, each time in a new process. pocketsphinx runs in its own environment with its own
English model and segmenter. Then `asr transcribe` alone transcribes a recording of five seconds, once
to warm the caches. Figures are medians over the rounds; CPU seconds include child processes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import soundfile
from harness import finish, make_parser, write_json
from rivals import WorkerError, build_environment, last_line

from asr.audio.waveform import SAMPLE_RATE, load_audio
from asr.data.manifest import read_manifest
from asr.errors import DataError
from asr.progress import complain, say, track
from asr.scoring import score

RIVAL = "pocketsphinx"
PACKAGES = ["pocketsphinx>=5,<6", "numpy"]
PAUSE_SECONDS = 0.7
SHORT_SECONDS = 5.0

RIVAL_SCRIPT = """
import sys
from importlib.metadata import version
from pocketsphinx import Decoder, Segmenter
decoder = Decoder(samprate=16000, loglevel="FATAL")
texts = []
with open(sys.argv[1], "rb") as file:
    file.seek(44)
    for segment in Segmenter(sample_rate=16000).segment(file):
        decoder.start_utt()
        decoder.process_raw(segment.pcm, full_utt=True)
        decoder.end_utt()
        if decoder.hyp():
            texts.append(decoder.hyp().hypstr)
print(" ".join(texts))
print(version("pocketsphinx"), file=sys.stderr)
"""


class Cost(NamedTuple):
    """The cost and the output of a process."""

    wall: float  # seconds of wall-clock time
    cpu: float  # seconds of CPU time
    peak_mb: float  # peak memory
    out: str
    err: str


def main() -> int:
    parser = make_parser(__doc__, rounds=3, with_rivals=True, with_json=True)
    parser.add_argument("--manifest", required=True, help="recordings and their texts (JSONL)")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="length of the long recording (%(default)s)"
    )
    parser.add_argument("--checkpoint", help="(the bundled English model)")
    parser.add_argument("--no-rival", action="store_true", help="measure only asr")
    return finish(run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Measure, and write the figures if a file is named."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    if options.json:
        write_json(options.json, figures)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float | str]:
    """Measure both, print the figures and return them."""
    reference, seconds = write_long(options.manifest, options.minutes, folder / "long.wav")
    waveform = load_audio(folder / "long.wav")[: round(SHORT_SECONDS * SAMPLE_RATE)]
    soundfile.write(folder / "short.wav", waveform, SAMPLE_RATE, "PCM_16")
    model = ["--checkpoint", options.checkpoint] if options.checkpoint else []
    start = "import sys; from asr.cli.main import main; sys.exit(main())"
    ours = [sys.executable, "-c", start, "transcribe", "--threads", "1", *model]
    rival = [] if options.no_rival else build_rival(options.environments)
    run_command([*ours, str(folder / "short.wav")])  # warms the caches
    costs: dict[str, list[Cost]] = {"asr": [], RIVAL: []}
    say(f"load {os.getloadavg()[0]:.1f}; {seconds / 60:.1f} minutes of speech, one core")
    for number in track(range(options.rounds), "transcribing", options.rounds, "rounds"):
        commands = [("asr", ours), *([(RIVAL, rival)] if rival else [])]
        for name, command in commands[:: 1 if number % 2 else -1]:
            costs[name].append(run_command([*command, str(folder / "long.wav")]))
    short = [run_command([*ours, str(folder / "short.wav")]) for _ in range(options.rounds)]

    figures: dict[str, float | str] = {"seconds": seconds}
    say(f"{'':<16}{'CPU s':>8}{'CPU s/s':>10}{'wall s':>9}{'peak MB':>9}{'WER, %':>8}")
    for name, found in costs.items():
        if not found:
            continue
        cpu, wall = median(c.cpu for c in found), median(c.wall for c in found)
        peak = max(c.peak_mb for c in found)
        wer = score({"all": reference}, {"all": " ".join(found[0].out.split())}).wer
        say(f"{name:<16}{cpu:>8.1f}{cpu / seconds:>10.4f}{wall:>9.1f}{peak:>9.0f}{100 * wer:>8.1f}")
        figures |= {f"{name} cpu": cpu, f"{name} wall": wall, f"{name} peak MB": peak}
        figures |= {f"{name} wer": wer}
    if costs[RIVAL]:
        ratios = [b.cpu / a.cpu for a, b in zip(costs["asr"], costs[RIVAL], strict=True)]
        version = last_line(costs[RIVAL][0].err)
        say(
            f"{RIVAL} {version} needs {median(ratios):.1f} times the CPU "
            f"({min(ratios):.1f} to {max(ratios):.1f})"
        )
        figures |= {"ratio": median(ratios), "version": version}
    wall = median(cost.wall for cost in short)
    say(f"a recording of {SHORT_SECONDS:g} s: text after {wall:.2f} s, CPU {short[0].cpu:.2f} s")
    return figures | {"short wall": wall}


def write_long(manifest: str, minutes: float, path: Path) -> tuple[str, float]:
    """Join recordings to at least `minutes`; returns their transcript and the length in seconds."""
    texts, pieces, samples = [], [], 0
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    for utterance in read_manifest(manifest):
        if samples >= minutes * 60 * SAMPLE_RATE:
            break
        waveform = load_audio(utterance.audio)
        texts.append(utterance.text)
        pieces += [waveform, pause]
        samples += len(waveform) + len(pause)
    else:
        raise DataError(
            f"{manifest} holds {samples / SAMPLE_RATE / 60:.1f} minutes; name a longer one or set "
            "--minutes lower"
        )
    with wave.open(str(path), "wb") as file:  # a header of 44 bytes
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((32767 * np.clip(np.concatenate(pieces), -1, 1)).astype("<i2").tobytes())
    return " ".join(texts), samples / SAMPLE_RATE


def build_rival(environments: Path) -> list[str]:
    """The rival's command; empty if it cannot be installed, and the reason is printed."""
    try:
        python = build_environment(environments / RIVAL, PACKAGES)
    except WorkerError as error:
        complain(f"{RIVAL} is left out: {error}")
        return []
    return [str(python), "-c", RIVAL_SCRIPT]


def run_command(command: list[str]) -> Cost:
    """Run a command on one core. Raises DataError if it fails."""
    cores = sorted(os.sched_getaffinity(0))[:1]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        output, errors = out.read(), err.read()
    if process.returncode:
        raise DataError(f"{command[0]} ended with exit code {process.returncode}: {errors[-500:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, usage.ru_maxrss / 1024, output, errors)


if __name__ == "__main__":
    sys.exit(main())
