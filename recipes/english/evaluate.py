"""WER of a checkpoint on several sets: greedy, then with beam search and the language model.

    python recipes/english/evaluate.py                  # the dev sets that prepare.py wrote
    python recipes/english/evaluate.py --manifest tests=tests.jsonl --manifest mine=mine.jsonl

The network listens to each recording once, and what it heard is decoded twice. The beam's numbers are
the checkpoint's own (`asr tune`). Each WER has its 95 % interval: that of a bootstrap over the
utterances, which knows nothing of how few speakers a set may have.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.checkpoint import load_decoder_config
from asr.data import read_manifest
from asr.decode import Decoder, DecoderConfig
from asr.decoding import prepare
from asr.distributed import count_cores
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.files import write_atomically
from asr.progress import complain, say, track
from asr.recognizer import LogProbs, Recognizer, load_decoder
from asr.scoring import Report, score
from asr.text import PROFILES

SOME_FAILED = 1  # of the recordings, as in `asr evaluate`
RESAMPLES = 10_000

Rates = dict[str, Any]
"""wer, low, high and cer as fractions; words and their errors as counts."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return evaluate(options)
    except AsrError as error:
        complain(f"evaluate.py: {error}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("Interrupted.")
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default="runs/english/best.pt", help="(%(default)s)")
    parser.add_argument(
        "--manifest",
        type=named_manifest,
        action="append",
        metavar="NAME=FILE",
        help="a set to evaluate, JSONL; again for more (each dev-NAME.jsonl in --data)",
    )
    parser.add_argument("--data", type=Path, default=Path("data/english"), help="(%(default)s)")
    parser.add_argument(
        "--lm",
        type=Path,
        metavar="FILE",
        help="language model (language-model-small.lm in --data, if it is there)",
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="plain",
        help="how references and texts are normalised before they are compared (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU (all cores)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/english/results.json"), help="(%(default)s)"
    )
    options = parser.parse_args(arguments)
    names = [name for name, _ in options.manifest or []]
    if len(set(names)) < len(names):
        parser.error("each --manifest needs a name of its own")
    return options


def named_manifest(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(path)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def evaluate(options: argparse.Namespace) -> int:
    """Print the table, write the file; the exit code."""
    manifests = dict(options.manifest or find_manifests(options.data))
    sets = {name: read_manifest(path) for name, path in manifests.items()}
    language_model = options.lm or options.data / "language-model-small.lm"
    threads = options.threads or count_cores()

    config = DecoderConfig()
    if options.lm or language_model.exists():
        numbers = load_decoder_config(options.checkpoint)
        config = replace(numbers, kind="beam", language_model=str(language_model))
    else:
        say(f"{language_model} does not exist: greedy decoding only (prepare.py --text makes it)")
    recognizer = Recognizer.load(options.checkpoint, options.device, threads, config)
    greedy = load_decoder(DecoderConfig(), recognizer.vocabulary, recognizer.model.frame_seconds)
    decoders = {"greedy": greedy}
    if config.kind == "beam":
        prepare(recognizer)
        decoders["beam"] = recognizer.decoder

    results: dict[str, Any] = {}
    failures: list[str] = []
    say(f"{'set':<16}{'utterances':>10}{'words':>9}{heading(decoders)}")
    for name, utterances in sets.items():
        ordered = sorted(utterances, key=lambda utterance: -utterance.seconds)
        emissions = recognizer.emissions((u.audio, u.seconds) for u in ordered)
        heard: dict[str, list[LogProbs]] = {}
        for index, segments in track(emissions, f"listening to {name}", len(ordered)):
            if isinstance(segments, AsrError):
                failures.append(f"{name}, {ordered[index].id}: {segments}")
            else:
                heard[ordered[index].id] = segments  # each (T', V)
        references = {utterance.id: utterance.text for utterance in utterances}
        found = {}
        for kind, decoder in decoders.items():
            texts = decode(recognizer, decoder, heard, references, threads)
            found[kind] = rates(score(references, texts, options.profile))
        results[name] = {
            "manifest": str(manifests[name]),
            "utterances": len(utterances),
            "unread": len(utterances) - len(heard),
            **found,
        }
        words = found["greedy"]["words"]
        say(f"{name:<16}{len(utterances):>10,}{words:>9,}{row(found.values())}")
    write(options.output, options.checkpoint, config, results)
    for failure in failures:
        complain(failure)
    if failures:
        complain(f"{len(failures)} recordings could not be read: all their words count as deleted.")
    return SOME_FAILED if failures else 0


def find_manifests(folder: Path) -> list[tuple[str, Path]]:
    """The dev sets of prepare.py with their names. Raises DataError where there is none."""
    paths = sorted(folder.glob("dev-*.jsonl"))
    if not paths:
        raise DataError(f"{folder} holds no dev-*.jsonl: run prepare.py, or name a --manifest")
    return [(path.stem.removeprefix("dev-"), path) for path in paths]


def decode(
    recognizer: Recognizer,
    decoder: Decoder,
    heard: Mapping[str, Sequence[LogProbs]],
    references: Mapping[str, str],
    threads: int,
) -> dict[str, str]:
    """The text of every utterance by id; empty for what could not be read."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decoding") as pool:
        hypotheses = list(pool.map(partial(recognizer.decode, decoder=decoder), heard.values()))
    texts = {name: found.text for name, found in zip(heard, hypotheses, strict=True)}
    return dict.fromkeys(references, "") | texts


def rates(report: Report) -> Rates:
    """The WER of a report with its bootstrap interval (Bisani & Ney 2004), by utterances."""
    errors = np.array([utterance.errors for utterance in report.utterances])
    words = np.array([utterance.words for utterance in report.utterances])
    random = np.random.default_rng(1)
    drawn = (random.integers(len(words), size=len(words)) for _ in range(RESAMPLES))
    resampled = [errors[some].sum() / max(words[some].sum(), 1) for some in drawn]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {
        "wer": report.wer,
        "low": float(low),
        "high": float(high),
        "words": report.words,
        "substitutions": report.substitutions,
        "insertions": report.insertions,
        "deletions": report.deletions,
        "cer": report.cer,
    }


def heading(decoders: Iterable[str]) -> str:
    """The columns of the decoders' rates."""
    labels = {"greedy": "WER greedy, %", "beam": "WER beam + LM, %"}
    return "".join(f"{labels[kind]:>24}" for kind in decoders)


def row(found: Iterable[Rates]) -> str:
    """A set's rates in those columns."""
    percents = [[100 * each[key] for key in ("wer", "low", "high")] for each in found]
    return "".join(f"{f'{wer:.2f} [{low:.2f}, {high:.2f}]':>24}" for wer, low, high in percents)


def write(path: Path, checkpoint: str, decoder: DecoderConfig, sets: Mapping[str, Any]) -> None:
    """Write all results as JSON. Raises FileError."""
    document = {"checkpoint": checkpoint, "decoder": asdict(decoder), "sets": sets}
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    write_atomically(path, lambda file: file.write(content))


if __name__ == "__main__":
    sys.exit(main())
