"""What the command `asr release` does: a training's model made into a folder for others, with its card.

Only light modules are imported here: the command line reads the declaration of every command.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr.errors import AsrError, DataError
from asr.progress import say


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "checkpoint", type=Path, metavar="RUN", help="a run's folder (its best.pt), or a checkpoint"
    )
    command.add_argument("output", type=Path, metavar="FOLDER", help="the released model")
    command.add_argument(
        "--lm", type=Path, metavar="FILE", help="language model that goes with it, a binary"
    )
    command.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="what evaluate.py measured (JSON): the card's tables",
    )
    command.add_argument(
        "--notes",
        type=Path,
        metavar="FILE",
        help="Markdown for the card: data and licences, commands, what the model cannot do",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the released model; the exit code. Raises AsrError before anything is written."""
    from asr import checkpoint
    from asr.language import LanguageModel

    source, output = arguments.checkpoint, arguments.output
    if source.is_dir() and (source / "best.pt").exists():
        source = source / "best.pt"
    if source.is_dir():
        raise AsrError(f"{source} is a released model already; name a training's checkpoint.")
    payload = checkpoint.read(source)
    if output.exists() and not (output / checkpoint.CONFIGURATION).is_file():
        raise AsrError(f"{output} exists and is no released model; name another folder.")
    if arguments.lm:
        LanguageModel.read(arguments.lm)
        if arguments.lm.suffix != ".lm":
            raise AsrError(
                f"{arguments.lm} is no binary; make one with: asr lm convert {arguments.lm} OUT.lm"
            )
    results = read_results(arguments.results) if arguments.results else {}
    notes = read_text(arguments.notes) if arguments.notes else ""
    card = "\n".join(write_card(output.name, payload, results, notes))
    checkpoint.save_release(output, payload, arguments.lm, arguments.results, card)
    sizes = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    for name, size in sizes.items():
        say(f"{name:<20}{size / 1e6:8.2f} MB")
    say(f"{output}: {sum(sizes.values()) / 1e6:.2f} MB; asr info {output} shows its card")
    return 0


def read_text(path: Path) -> str:
    """A text file. Raises AsrError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AsrError(f"{path} cannot be read ({reason}); check the path.") from error


def read_results(path: Path) -> dict[str, Any]:
    """What a recipe's evaluate.py wrote. Raises DataError for any other file."""
    try:
        results = json.loads(read_text(path))
        next(iter(results["sets"]))  # there is one
        for found in results["sets"].values():
            _ = [found[kind][key] for kind in decoders(results) for key in ("wer", "low", "high")]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise DataError(
            f"{path} holds no results of an evaluate.py; name what its --output wrote."
        ) from error
    return dict(results)


def decoders(results: Mapping[str, Any]) -> list[str]:
    """Those with which every set was decoded, "greedy" first."""
    first = next(iter(results["sets"].values()))
    return [kind for kind in ("greedy", "beam") if kind in first]


def write_table(results: Mapping[str, Any]) -> Iterator[str]:
    """The word error rates as a Markdown table, in percent, with 95 % intervals."""
    titles = {"greedy": "WER greedy", "beam": "WER beam + language model"}
    kinds = decoders(results)
    yield f"| set | utterances | words | {' | '.join(titles[kind] for kind in kinds)} |"
    yield "| --- " * (3 + len(kinds)) + "|"
    for name, found in results["sets"].items():
        rates = [
            f"{100 * found[k]['wer']:.1f} % "
            f"[{100 * found[k]['low']:.1f}, {100 * found[k]['high']:.1f}]"
            for k in kinds
        ]
        counts = f"{found['utterances']:,} | {found[kinds[0]]['words']:,}"
        yield f"| {name} | {counts} | {' | '.join(rates)} |"


def write_rest(results: Mapping[str, Any]) -> Iterator[str]:
    """The confidence and the false alarms, where they were measured; each a paragraph."""
    if confidence := results.get("confidence"):
        yield (
            f"Confidence of words, fitted on other speakers ({confidence['words']:,} words): expected "
            f"calibration error {confidence['calibration_error']:.3f}, area under the ROC curve "
            f"{confidence['auroc']:.3f}."
        )
        yield ""
    if alarms := results.get("false_alarms"):
        sounds = alarms["words_per_minute"]
        worst = max(rates.get("beam", rates["greedy"]) for rates in sounds.values())
        yield (
            f"Where nobody speaks ({', '.join(sounds)}; {alarms['minutes']:g} minutes each): at most "
            f"{worst:.1f} words a minute."
        )
        yield ""


def write_card(
    name: str, payload: Mapping[str, Any], results: Mapping[str, Any], notes: str
) -> Iterator[str]:
    """The model card, in Markdown, line by line."""
    encoder, features = payload["encoder"], payload["features"]
    size = sum(w.numel() for n, w in payload["weights"].items() if not n.startswith("features."))
    yield f"# {name}"
    yield ""
    yield (
        f"{encoder['layers']} layers of {encoder['hidden']} LSTM cells a direction "
        f"({encoder['kind'].replace('_', '-')}), {size / 1e6:.1f} M parameters; "
        f"{features['mels']} mel bins up to {features['high_hz']:g} Hz, an encoder frame every "
        f"{encoder['stack'] * features['hop_ms']:g} ms. It writes "
        f"`{''.join(payload['vocabulary'][1:]).strip()}` and the space."
    )
    if results:
        yield from ["", "## Word error rates", ""]
        yield from write_table(results)
        yield ""
        yield "In brackets: 95 % intervals of a bootstrap over the utterances."
        yield ""
        yield from write_rest(results)
    facts = {key: value for key, value in payload["facts"].items() if value not in ("", None)}
    if facts:
        yield from ["", "## Training", ""]
        yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items())
    if notes:
        yield ""
        yield notes.rstrip()
    yield ""
