"""Released models: a folder of plain JSON, small weights, a language model and a model card.

A released model cannot be resumed. It can be used wherever a checkpoint's path can.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError, CheckpointError, DataError, FileError
from asr.files import FilePath

if TYPE_CHECKING:
    from torch import Tensor  # loaded only when needed: the command line imports this module

RELEASED = Path(__file__).parent / "models" / "english"
"""The released model that comes with the package."""

# Files of a released model.
WEIGHTS, CONFIGURATION = "model.safetensors", "config.json"
LANGUAGE_MODEL, RESULTS, CARD = "language-model.lm", "results.json", "card.md"

SCALE = ".scale"  # suffix of a matrix's name for the scales of its rows
SMALLEST = 1e-30  # lower bound of a row's largest weight, so that a row of zeros has a scale


def save_release(
    folder: FilePath,
    payload: Mapping[str, Any],
    language_model: FilePath | None,
    results: FilePath | None,
    card: str,
) -> None:
    """Write a checkpoint's payload as a released model, replacing `folder` only on success.

    Matrices are stored as 8-bit integers with one scale per row, vectors as float16. Raises
    FileError if the file cannot be written.
    """
    from safetensors.torch import save_file

    target = Path(folder)
    unfinished = target.with_name(f".{target.name}.unfinished")
    decoder = {**payload["decoder"], "lexicon": "", "hotwords": ""}
    decoder["language_model"] = LANGUAGE_MODEL if language_model else ""
    decoder["kind"] = "beam" if language_model else "greedy"
    kept = ("format", "version", "features", "encoder", "vocabulary", "facts")
    configuration = {key: payload[key] for key in kept} | {"decoder": decoder}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # left over if an earlier call was killed
        unfinished.mkdir(parents=True)
        save_file(_pack(payload["weights"]), unfinished / WEIGHTS)
        document = json.dumps(configuration, indent=1, ensure_ascii=False)
        (unfinished / CONFIGURATION).write_text(f"{document}\n", "utf-8")
        (unfinished / CARD).write_text(card, "utf-8")
        for source, name in ((language_model, LANGUAGE_MODEL), (results, RESULTS)):
            if source:
                shutil.copyfile(source, unfinished / name)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.replace(target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise FileError(
            f"{target} cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error


def _pack(weights: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Quantize weights for storage; the inverse of `_unpack` up to rounding."""
    import torch

    packed = {}
    for name, weight in weights.items():
        if name.startswith("features."):
            packed[name] = weight.contiguous()
        elif weight.ndim == 2:
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / 127
            packed[name] = (weight / scale).round().to(torch.int8)
            packed[name + SCALE] = scale.contiguous()
        else:
            packed[name] = weight.half().contiguous()
    return packed


def _unpack(packed: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Restore float32 weights; a matrix is exact to half of its row's scale.

    Raises ValueError if a matrix and its scales do not fit together, or are no real numbers.
    """
    weights = {}
    for name, part in packed.items():
        if name.endswith(SCALE):
            continue
        scale = packed.get(name + SCALE)
        if part.is_complex() or (scale is not None and scale.is_complex()):
            raise ValueError(f"{name} has complex numbers")
        if scale is not None and (part.ndim != 2 or scale.shape != (len(part), 1)):
            raise ValueError(
                f"{name} has the shape {tuple(part.shape)}, its scales {tuple(scale.shape)}"
            )
        weights[name] = part.float() if scale is None else part.float() * scale
    return weights


def count_parameters(weights: Mapping[str, "Tensor"]) -> int:
    """The number of weights of a model, without the statistics of its features."""
    return sum(w.numel() for name, w in weights.items() if not name.startswith("features."))


def read_card(path: FilePath) -> str:
    """The model card of a released model, in Markdown; "" for any other checkpoint.

    Raises AsrError if the card cannot be read.
    """
    card = Path(path) / CARD
    return read_text(card) if card.is_file() else ""


def read_release(folder: Path) -> Any:
    """Read the payload of a released model's folder. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIGURATION).exists():
        inside = "best.pt" if (folder / "best.pt").exists() else "a checkpoint such as best.pt"
        raise CheckpointError(
            f"{folder} is a folder but not a released model; specify {inside} in it"
        )
    try:
        payload = json.loads((folder / CONFIGURATION).read_text("utf-8"))
        payload["weights"] = _unpack(load_file(folder / WEIGHTS))
        decoder = payload["decoder"]
        if decoder["language_model"]:
            decoder["language_model"] = str(folder / decoder["language_model"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: this released model is incomplete or damaged ({error}); install asr again, "
            "or write it again with `asr release`"
        ) from error
    return payload | {"training": None}


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises AsrError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AsrError(f"{path} cannot be read ({reason}); check the path") from error


def read_results(path: Path) -> dict[str, Any]:
    """Read what a recipe's evaluate.py wrote. Raises DataError for any other file."""
    try:
        results = json.loads(read_text(path))
        # Writing the tables of a model card finds every value that is missing or of another type.
        _ = [*write_table(results), *write_rest(results)]
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{path} contains no results of an evaluate.py; specify the file that its --output wrote"
        ) from error
    return dict(results)


def write_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a Markdown table of word error rates (%), with 95 % confidence intervals."""
    titles = {"greedy": "WER greedy", "beam": "WER beam + language model"}
    [first, *_] = results["sets"].values()  # every set was decoded with the same decoders
    kinds = [kind for kind in titles if kind in first]
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
    """Yield a paragraph on confidence and one on false alarms, if they were measured."""
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
        most = f"at most {worst:.1f}" if worst else "0.0"
        yield (
            "False alarms in recordings without speech "
            f"({', '.join(sounds)}; {alarms['minutes']:g} minutes each): {most} words per minute in "
            "each."
        )
        yield ""


def write_card(
    name: str, payload: Mapping[str, Any], results: Mapping[str, Any], notes: str
) -> Iterator[str]:
    """Yield the lines of the model card, in Markdown."""
    encoder, features = payload["encoder"], payload["features"]
    size = count_parameters(payload["weights"])
    yield from [f"# {name}", ""]
    yield (
        f"{encoder['layers']} layers of {encoder['hidden']} LSTM cells per direction "
        f"({encoder['kind'].replace('_', '-')}), {size / 1e6:.1f} M parameters; "
        f"{features['mels']} mel bins up to {features['high_hz']:g} Hz, an encoder frame every "
        f"{encoder['stack'] * features['hop_ms']:g} ms. It outputs "
        f"`{''.join(payload['vocabulary'][1:]).strip()}` and the space."
    )
    if results:
        yield from ["", "## Word error rates", ""]
        yield from write_table(results)
        yield from [
            "",
            "In brackets: 95 % confidence intervals from a bootstrap over the utterances.",
            "",
        ]
        yield from write_rest(results)
    facts = {key: value for key, value in payload["facts"].items() if value not in ("", None)}
    if facts:
        yield from ["", "## Training", ""]
        yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items())
    if notes:
        yield from ["", notes.rstrip()]
    yield ""
