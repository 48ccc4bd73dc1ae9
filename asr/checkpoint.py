"""Checkpoints: atomic save, safe load; and released models.

A checkpoint is one file of plain data and tensors: it carries its configuration and vocabulary, so
that whoever loads it needs no YAML, and it is read without running code from it
(`torch.load(weights_only=True)`), so that a malicious file is refused, not obeyed.

A released model is a folder for others to use, which cannot be resumed: weights of half the size,
plain JSON, the language model that belongs to it and a card for people. Whatever takes a checkpoint's
path takes that of such a folder too.
"""

import errno
import os
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from asr.decoder.config import DecoderConfig
from asr.encoder import TRAINING_ONLY, EncoderConfig
from asr.errors import AsrError, CheckpointError
from asr.features import FeaturesConfig
from asr.files import write_atomically
from asr.model import AcousticModel
from asr.release import FilePath, read_release
from asr.text import Vocabulary

FORMAT = "asr checkpoint"
VERSION = 1


def save_model(
    path: FilePath,
    model: AcousticModel,
    vocabulary: Vocabulary,
    facts: dict[str, object],
    training: dict[str, Any] | None = None,
    decoder: DecoderConfig | None = None,
) -> None:
    """Write a checkpoint atomically: whoever reads `path` sees the old file or the new one, whole.

    `facts` is plain data about the training for people (`describe` shows it), `training` is what
    resuming needs, `decoder` is kept without its files. Raises FileError where the disk refuses;
    the old file is then untouched.
    """
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "features": asdict(model.features.config),
        "encoder": asdict(model.encoder.config),
        "decoder": asdict((decoder or DecoderConfig()).without_files()),
        "vocabulary": vocabulary.to_list(),
        "weights": model.state_dict(),
        "facts": facts,
        "training": training,
    }
    _write(path, payload)


def load_model(path: FilePath, device: str = "cpu") -> tuple[AcousticModel, Vocabulary]:
    """The model, in evaluation mode on `device`, and its vocabulary.

    Raises CheckpointError where the file is missing, truncated, foreign, unsafe or inconsistent.
    """
    payload = read(path)
    try:
        vocabulary = Vocabulary.from_list(payload["vocabulary"])
        features = FeaturesConfig(**payload["features"])
        encoder = EncoderConfig(**payload["encoder"])
        model = AcousticModel(features, encoder, len(vocabulary))
        model.load_state_dict(payload["weights"])
    except (AsrError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{os.fspath(path)}: the parts of this checkpoint do not fit together ({reason}); "
            "it is damaged or was made by another version of asr."
        ) from error
    return model.to(device).eval(), vocabulary


def load_decoder_config(path: FilePath) -> DecoderConfig:
    """How the checkpoint's model is decoded best, as far as anybody has tried (`asr tune`).

    Of a released model it names the language model, of another checkpoint no files. Raises
    CheckpointError as `load_model` does.
    """
    payload = read(path)
    try:
        return DecoderConfig(**payload["decoder"])
    except (AsrError, TypeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)}: the decoder of this checkpoint cannot be used ({error}); "
            "it is damaged or was made by another version of asr."
        ) from error


def save_decoder_config(path: FilePath, decoder: DecoderConfig, output: FilePath) -> None:
    """Write a checkpoint again, to `output`, with another decoder's configuration (no files)."""
    payload = read(path)
    payload["decoder"] = asdict(decoder.without_files())
    _write(output, payload)


def average_models(paths: Sequence[FilePath], output: FilePath) -> None:
    """Write to `output` the model whose weights are the mean of those in the checkpoints `paths`.

    Sums are of float64. All else is the first's; the facts list the files. Raises CheckpointError
    where they are not of one architecture, vocabulary and normalization of features; how they were
    trained may differ.
    """
    first = read(paths[0])
    sums = {name: weight.double() for name, weight in first["weights"].items()}
    sources = [_describe_source(paths[0], first)]
    for path in paths[1:]:
        other = read(path)
        difference = _find_difference(first, other)
        if difference:
            raise CheckpointError(
                f"{os.fspath(path)}: {difference} is not as in {os.fspath(paths[0])}, so their "
                "weights have no average; name checkpoints of one training."
            )
        for name, weight in other["weights"].items():
            sums[name] += weight
        sources.append(_describe_source(path, other))
    payload = {
        **first,
        "weights": {
            name: (total / len(paths)).to(first["weights"][name].dtype)
            for name, total in sums.items()
        },
        "facts": {"average_of": sources},
        "training": None,
    }
    _write(output, payload)


def _describe_source(path: FilePath, payload: dict[str, Any]) -> str:
    facts = [
        f"{key} {payload['facts'][key]}" for key in ("epoch", "step") if key in payload["facts"]
    ]
    return f"{os.fspath(path)} ({', '.join(facts)})" if facts else os.fspath(path)


def _find_difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What keeps two checkpoints from being averaged, as a noun; "" where nothing does."""
    for part in ("features", "encoder"):
        for key in one[part] | other[part]:
            name = f"{part}.{key}"
            if name not in TRAINING_ONLY and one[part].get(key) != other[part].get(key):
                return name
    if one["vocabulary"] != other["vocabulary"]:
        return "the vocabulary"
    ours, theirs = one["weights"], other["weights"]
    if {n: w.shape for n, w in ours.items()} != {n: w.shape for n, w in theirs.items()}:
        return "the shape of its weights"
    same = all(torch.equal(ours[n], theirs[n]) for n in ours if n.startswith("features."))
    return "" if same else "the normalization of the features"


def name_epoch(epoch: int) -> str:
    """The name of the file that keeps the model of an epoch, counted from 1."""
    return f"epoch-{epoch:04d}.pt"


def remove_epochs(folder: FilePath, last: int) -> None:
    """Remove the models of the epochs up to `last` that a folder keeps."""
    for path in Path(folder).glob("epoch-*.pt"):
        number = path.stem.removeprefix("epoch-")
        if number.isdecimal() and int(number) <= last:
            path.unlink(missing_ok=True)


def describe(path: FilePath) -> dict[str, object]:
    """A checkpoint as plain data for people: configuration, size, and facts of its training."""
    payload = read(path)
    return {
        "version": payload["version"],
        "features": payload["features"],
        "encoder": payload["encoder"],
        "decoder": payload["decoder"],
        "vocabulary": "".join(payload["vocabulary"][1:]),
        "parameters": sum(
            tensor.numel()
            for name, tensor in payload["weights"].items()
            if not name.startswith("features.")
        ),
        "resumable": payload["training"] is not None,
        **payload["facts"],
    }


def read(path: FilePath) -> dict[str, Any]:
    """The payload of a checkpoint or a released model, on the CPU. Raises CheckpointError."""
    payload = read_release(Path(path)) if os.path.isdir(path) else _read_file(path)
    name = os.fspath(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(
            f"{name}: this file was not written by asr; use a checkpoint such as best.pt of a run."
        )
    if payload.get("version") != VERSION:
        raise CheckpointError(
            f"{name}: this checkpoint has format version {payload.get('version')}, this asr reads "
            f"version {VERSION}; install the version of asr that wrote it."
        )
    missing = {
        "features",
        "encoder",
        "decoder",
        "vocabulary",
        "weights",
        "facts",
        "training",
    } - set(payload)
    if missing:
        raise CheckpointError(
            f"{name}: the checkpoint lacks {', '.join(sorted(missing))}; it is damaged."
        )
    return payload


def _read_file(path: FilePath) -> Any:
    name = os.fspath(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{name}: there is no such checkpoint; check the path.") from None
    except PermissionError as error:
        raise CheckpointError(
            f"{name}: the checkpoint cannot be read ({error.strerror}); check the path."
        ) from error
    except Exception as error:  # torch raises many kinds for what it cannot read
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{name}: refused, because it holds code or objects that a checkpoint of asr never "
                "holds; use a file that asr wrote."
            ) from error
        raise CheckpointError(
            f"{name}: this file is truncated, damaged or not a checkpoint; "
            "use another one, such as the run's best.pt or last.pt."
        ) from error


def _write(path: FilePath, payload: dict[str, Any]) -> None:
    def write(file: IO[bytes]) -> None:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what the disk said, which torch hides
                raise error.__context__ from None
            if "PytorchStreamWriter" in str(error):  # and here it keeps it to itself
                raise OSError(errno.EIO, str(error).splitlines()[0]) from error
            raise

    write_atomically(path, write)
