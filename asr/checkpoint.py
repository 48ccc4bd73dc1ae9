"""Checkpoints: written atomically, read once, averaged.

A checkpoint is one file of plain data and tensors. It carries its configuration and vocabulary, so
loading it needs no YAML. It is read without running code from it (`torch.load(weights_only=True)`),
so a malicious file is rejected. The folder of a released model (`asr.release`) is read the same way.
"""

import contextlib
import errno
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from asr.decoder.config import DecoderConfig
from asr.encoder import TRAINING_ONLY, Encoder, EncoderConfig
from asr.errors import AsrError, CheckpointError
from asr.features import FeaturesConfig
from asr.files import FilePath, write_atomically
from asr.model import AcousticModel
from asr.release import count_parameters, read_release
from asr.text import Vocabulary

FORMAT = "asr checkpoint"
VERSION = 1
MOST_REASON = 500  # characters of another error that are quoted
PARTS: dict[str, Any] = {  # name -> type
    **dict.fromkeys(("features", "encoder", "decoder", "weights", "facts"), dict),
    "vocabulary": list,
    "training": dict | None,
}


class Checkpoint:
    """The content of a checkpoint or a released model; it never changes.

        checkpoint = Checkpoint.read("runs/english/best.pt")
        model, vocabulary = checkpoint.model("cuda"), checkpoint.vocabulary

    A pickled checkpoint is just its path: the process that unpickles it reads the file itself.

    Attributes:
        path: Where it was read from.
        payload: Its content as plain data and tensors on the CPU.
        weights: The model's state dict, including the normalization of the features.
        facts: Plain data about the training run, such as its epoch and dev WER.
        training: The state needed to resume training, or None if the checkpoint is not resumable.
    """

    def __init__(self, path: FilePath, payload: dict[str, Any]) -> None:
        self.path = os.fspath(path)
        self.payload = payload
        self.weights: dict[str, Tensor] = payload["weights"]
        self.facts: dict[str, Any] = payload["facts"]
        self.training: dict[str, Any] | None = payload["training"]

    @classmethod
    def read(cls, path: FilePath) -> "Checkpoint":
        """Read a checkpoint or the folder of a released model.

        Raises CheckpointError if it is missing, truncated or unsafe, or was written by another
        program or in another format version.
        """
        payload = read_release(Path(path)) if os.path.isdir(path) else _read_file(path)
        name = os.fspath(path)
        if not isinstance(payload, dict) or payload.get("format") != FORMAT:
            raise CheckpointError(
                f"{name}: this file was not written by asr; use a checkpoint such as best.pt of a "
                "run"
            )
        if payload.get("version") != VERSION:
            raise CheckpointError(
                f"{name}: this checkpoint has format version {payload.get('version')}, but this "
                f"asr reads version {VERSION}; install the version of asr that wrote it"
            )
        if missing := sorted(set(PARTS) - set(payload)):
            raise CheckpointError(
                f"{name}: the checkpoint lacks {', '.join(missing)}; it is damaged, use another one"
            )
        for part, kind in PARTS.items():
            if not isinstance(payload[part], kind):
                raise CheckpointError(f"{name}: the part {part} is damaged; use another checkpoint")
        for weight, value in payload["weights"].items():
            if not _is_whole(value):
                raise CheckpointError(
                    f"{name}: the weights {str(weight)[:80]} are damaged; use another checkpoint"
                )
        return cls(path, payload)

    def __reduce__(self) -> tuple[Callable[[FilePath], "Checkpoint"], tuple[str]]:
        return Checkpoint.read, (self.path,)

    @property
    def features(self) -> FeaturesConfig:
        """The configuration of the log-mel features. Raises CheckpointError if it is invalid."""
        with self._wrap_errors():
            return FeaturesConfig(**self.payload["features"])

    @property
    def encoder(self) -> EncoderConfig:
        """The configuration of the encoder. Raises CheckpointError if it is invalid."""
        with self._wrap_errors():
            return EncoderConfig(**self.payload["encoder"])

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's settings that suit the model, as `asr tune` found them.

        A released model names its language model, other checkpoints name no files. Raises
        CheckpointError if they are invalid.
        """
        with self._wrap_errors():
            return DecoderConfig(**self.payload["decoder"])

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model outputs. Raises CheckpointError if they are invalid."""
        with self._wrap_errors():
            return Vocabulary.from_list(self.payload["vocabulary"])

    def model(self, device: str = "cpu") -> AcousticModel:
        """Build the model, in evaluation mode on `device`.

        Raises CheckpointError if the weights do not fit the configuration.
        """
        features, encoder, symbols = self.features, self.encoder, len(self.vocabulary)
        with self._wrap_errors():
            # The shapes are compared first, because a damaged configuration may ask for any memory.
            if encoder.layers > len(self.weights):
                raise CheckpointError(f"{encoder.layers} layers have too few weights")
            with torch.device("meta"):
                empty = Encoder(encoder, features.mels).state_dict(prefix="encoder.")
            for name, weight in empty.items():
                if (found := self.weights.get(name)) is None or found.shape != weight.shape:
                    shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
                    raise CheckpointError(f"{name} is {shape}, not {tuple(weight.shape)}")
            model = AcousticModel(features, encoder, symbols)
            model.load_state_dict(self.weights)
        return model.to(device).eval()

    def find_differences(
        self, features: FeaturesConfig, encoder: EncoderConfig, vocabulary: Vocabulary
    ) -> dict[str, Any]:
        """Compare the model with another architecture.

        Settings that only matter in training are ignored.

        Returns:
            This checkpoint's values of what differs, by name: "encoder.hidden" and the like for
            settings, "vocabulary" for the list of symbols. Empty if the same weights fit both.
        """
        others = {"features": asdict(features), "encoder": asdict(encoder)}
        differences = {
            f"{section}.{key}": value
            for section, theirs in others.items()
            for key, value in asdict(getattr(self, section)).items()
            if f"{section}.{key}" not in TRAINING_ONLY and value != theirs[key]
        }
        if self.vocabulary != vocabulary:
            differences["vocabulary"] = self.payload["vocabulary"]
        return differences

    def write(self, path: FilePath, decoder: DecoderConfig | None = None) -> None:
        """Write the checkpoint to `path` atomically, with another decoder's settings if given.

        Paths in `decoder` are left out. Raises FileError if a file cannot be written.
        """
        payload = self.payload
        if decoder is not None:
            payload = {**payload, "decoder": asdict(decoder.without_files())}
        _write(path, payload)

    def describe(self) -> dict[str, object]:
        """Summarize the checkpoint as plain data: configuration, size, and facts of its training.

        Raises CheckpointError if the symbols are invalid.
        """
        return {
            **{key: self.payload[key] for key in ("version", "features", "encoder", "decoder")},
            "vocabulary": "".join(self.vocabulary.symbols[1:]),
            "parameters": count_parameters(self.weights),
            "resumable": self.training is not None,
            **self.facts,
        }

    @contextlib.contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        """Turn the errors of invalid or inconsistent parts into a CheckpointError."""
        try:
            yield
        except (AsrError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = (str(error).strip() or "empty").splitlines()[-1].strip().removesuffix(".")
            reason = reason[:MOST_REASON]
            raise CheckpointError(
                f"{self.path}: the parts of this checkpoint do not fit together ({reason}); "
                "it is damaged or was made by another version of asr"
            ) from error


def save_model(
    path: FilePath,
    model: AcousticModel,
    vocabulary: Vocabulary,
    facts: dict[str, object],
    training: dict[str, Any] | None = None,
    decoder: DecoderConfig | None = None,
) -> None:
    """Write a checkpoint atomically: a reader of `path` gets the whole old file or the whole new one.

    Args:
        path: The file to write.
        model: The acoustic model whose weights and configuration are saved.
        vocabulary: The symbols that the model outputs.
        facts: Plain data about the training run, shown by `asr info`.
        training: What resuming needs; None for a checkpoint that cannot be resumed.
        decoder: The decoder's settings that suit the model; its paths are left out.

    Raises:
        FileError: If the file cannot be written; the old file is then unchanged.
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


def average_checkpoints(checkpoints: Sequence[Checkpoint], output: FilePath) -> Checkpoint:
    """Write the model whose weights are the mean of the checkpoints' weights, and return it.

    Sums are computed in float64. Everything else is the first checkpoint's; the facts list the
    files. Raises CheckpointError if the checkpoints differ in architecture, vocabulary or
    normalization of the features; settings that only matter in training may differ.
    """
    first = checkpoints[0]
    sums = {name: weight.double() for name, weight in first.weights.items()}
    for other in checkpoints[1:]:
        if difference := _find_obstacle(first, other):
            raise CheckpointError(
                f"{other.path} cannot be averaged with {first.path} ({difference} differs); use "
                "checkpoints from one training run"
            )
        for name, weight in other.weights.items():
            sums[name] += weight
    weights = {
        name: (total / len(checkpoints)).to(first.weights[name].dtype)
        for name, total in sums.items()
    }
    facts = {"average_of": [_describe_source(checkpoint) for checkpoint in checkpoints]}
    average = {**first.payload, "weights": weights, "facts": facts, "training": None}
    _write(output, average)
    return Checkpoint(output, average)


def _find_obstacle(one: Checkpoint, other: Checkpoint) -> str:
    """Return the first difference that prevents averaging, or "" if the checkpoints are compatible."""
    for name in other.find_differences(one.features, one.encoder, one.vocabulary):
        return name
    ours, theirs = one.weights, other.weights
    if {n: w.shape for n, w in ours.items()} != {n: w.shape for n, w in theirs.items()}:
        return "the shape of the weights"
    same = all(torch.equal(ours[n], theirs[n]) for n in ours if n.startswith("features."))
    return "" if same else "the normalization of the features"


def _describe_source(checkpoint: Checkpoint) -> str:
    facts = checkpoint.facts
    shown = [f"{key} {facts[key]}" for key in ("epoch", "step") if key in facts]
    return f"{checkpoint.path} ({', '.join(shown)})" if shown else checkpoint.path


def name_epoch(epoch: int) -> str:
    """The name of the file that keeps the model of an epoch, counted from 1."""
    return f"epoch-{epoch:04d}.pt"


def remove_epochs(folder: FilePath, last: int) -> None:
    """Remove the kept models of the epochs up to `last` from a folder."""
    for path in Path(folder).glob("epoch-*.pt"):
        number = path.stem.removeprefix("epoch-")
        if number.isdecimal() and int(number) <= last:
            path.unlink(missing_ok=True)


def _read_file(path: FilePath) -> Any:
    name = os.fspath(path)
    try:
        _check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{name}: there is no such checkpoint; check the path") from None
    except PermissionError as error:
        raise CheckpointError(
            f"{name}: the checkpoint cannot be read ({error.strerror}); check the path"
        ) from error
    except Exception as error:  # torch raises many kinds of errors for unreadable files
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{name}: contains code or objects that are not allowed in an asr checkpoint; "
                "use a file written by asr"
            ) from error
        raise CheckpointError(
            f"{name}: this file is truncated, damaged or not a checkpoint; "
            "use another one, such as the run's best.pt or last.pt"
        ) from error


def _is_whole(weight: object) -> bool:
    """Whether `weight` is a tensor of finite real numbers that are all in the file.

    A damaged file can repeat one number in a tensor of any size.
    """
    if not isinstance(weight, Tensor) or weight.layout != torch.strided:
        return False
    if weight.is_meta or weight.is_complex():
        return False
    stored = weight.untyped_storage().nbytes() // weight.element_size()
    return weight.numel() <= stored and bool(torch.isfinite(weight).all())


def _check_stored(path: FilePath) -> None:
    """Raise ValueError if the file is no zip file as torch.save writes it: every part is stored.

    Compressed or overlapping parts could fill the memory from a small file.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or (
        sum(part.file_size for part in parts) > os.path.getsize(path)
    ):
        raise ValueError("its parts are compressed")


def _write(path: FilePath, payload: Mapping[str, Any]) -> None:
    def write(file: IO[bytes]) -> None:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the disk's own error
                raise error.__context__ from None
            if "PytorchStreamWriter" in str(error):  # torch drops the disk's own error
                raise OSError(errno.EIO, str(error).splitlines()[0]) from error
            raise

    write_atomically(path, write)
