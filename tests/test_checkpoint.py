"""Checkpoints: what is written is read back, and everything else is refused in one sentence."""

import os
import pickle
import resource
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.checkpoint import Checkpoint, save_model
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import CheckpointError, FileError
from asr.features import FeaturesConfig
from asr.files import write_atomically
from asr.model import AcousticModel
from asr.text import Vocabulary


@pytest.fixture
def model() -> AcousticModel:
    torch.manual_seed(0)
    encoder = EncoderConfig(layers=1, hidden=8)
    net = AcousticModel(FeaturesConfig(mels=20), encoder, len(Vocabulary.english())).eval()
    net.features.mean.normal_()
    return net


@pytest.fixture
def saved(model, tmp_path) -> Path:
    path = tmp_path / "best.pt"
    save_model(path, model, Vocabulary.english(), {"epoch": 3, "dev_wer": 0.25})
    return path


def edited(path: Path, **changes) -> Path:
    payload = torch.load(path, weights_only=True)
    torch.save(payload | changes, path)
    return path


def test_a_loaded_model_is_the_saved_one(model, saved) -> None:
    checkpoint = Checkpoint.read(saved)
    loaded = checkpoint.model()
    assert checkpoint.vocabulary == Vocabulary.english()
    assert checkpoint.features == model.features.config
    assert checkpoint.encoder == model.encoder.config
    assert checkpoint.facts == {"epoch": 3, "dev_wer": 0.25}
    assert checkpoint.training is None
    assert not loaded.training
    features, lengths = torch.randn(1, 30, 20), torch.tensor([30])
    assert torch.equal(loaded(features, lengths).log_probs, model(features, lengths).log_probs)
    assert torch.equal(loaded.features.mean, model.features.mean)


def test_describe_is_plain_data(model, saved) -> None:
    described = Checkpoint.read(saved).describe()
    assert described["parameters"] == sum(p.numel() for p in model.parameters())
    assert described["dev_wer"] == 0.25
    assert described["vocabulary"] == " abcdefghijklmnopqrstuvwxyz'"
    assert described["resumable"] is False


def test_differences_are_named_with_the_checkpoints_values(model, saved) -> None:
    checkpoint = Checkpoint.read(saved)
    features, encoder = model.features.config, model.encoder.config
    assert checkpoint.find_differences(features, encoder, Vocabulary.english()) == {}
    ours = replace(features, mels=24), replace(encoder, hidden=16, dropout=0.9)
    other = Vocabulary.from_transcripts(["abc"])
    assert checkpoint.find_differences(*ours, other) == {
        "features.mels": 20,
        "encoder.hidden": 8,
        "vocabulary": Vocabulary.english().to_list(),
    }


def test_another_process_reads_the_file_itself(saved, monkeypatch) -> None:
    pickled = pickle.dumps([Checkpoint.read(saved)] * 3)
    assert len(pickled) < 500
    reads = []
    honest = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: reads.append(a) or honest(*a, **k))
    one, *others = pickle.loads(pickled)
    assert one.facts == {"epoch": 3, "dev_wer": 0.25}
    assert all(other is one for other in others)
    assert len(reads) == 1


def test_written_with_another_decoder_all_else_stays(saved, tmp_path) -> None:
    checkpoint = Checkpoint.read(saved)
    decoder = DecoderConfig("beam", beta=1.5, language_model="/here/only.lm")
    checkpoint.write(tmp_path / "tuned.pt", decoder)
    tuned = Checkpoint.read(tmp_path / "tuned.pt")
    assert tuned.decoder == DecoderConfig("beam", beta=1.5)
    assert checkpoint.decoder == DecoderConfig()
    assert list(tuned.payload) == list(checkpoint.payload)
    assert tuned.facts == checkpoint.facts
    for name, weight in checkpoint.weights.items():
        assert torch.equal(tuned.weights[name], weight)


class Malice:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned-by-a-checkpoint",)


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path) -> None:
    owned = Path("/tmp/owned-by-a-checkpoint")
    for write in (
        lambda p: torch.save(Malice(), p),
        lambda p: p.write_bytes(pickle.dumps(Malice())),
    ):
        path = tmp_path / "malicious.pt"
        write(path)
        with pytest.raises(CheckpointError, match=r"malicious\.pt: "):
            Checkpoint.read(path).model()
        assert not owned.exists()


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.999])
def test_truncated(saved, part: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match="truncated, damaged or not a checkpoint"):
        Checkpoint.read(saved).model()


def test_missing_folder_and_foreign(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        Checkpoint.read(tmp_path / "none.pt").model()
    with pytest.raises(CheckpointError, match="is a folder but not a released model"):
        Checkpoint.read(tmp_path).model()
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="was not written by asr"):
        Checkpoint.read(tmp_path / "foreign.pt").model()
    (tmp_path / "text.pt").write_text("not a checkpoint at all")
    with pytest.raises(CheckpointError, match=r"text\.pt: "):
        Checkpoint.read(tmp_path / "text.pt").model()


def test_parts_that_do_not_fit_together(saved) -> None:
    with pytest.raises(CheckpointError, match="do not fit together"):
        Checkpoint.read(edited(saved, vocabulary=["<blank>", "a", "b"])).model()
    with pytest.raises(CheckpointError, match="do not fit together"):
        Checkpoint.read(edited(saved, vocabulary=["<blank>", "a", "a"])).model()
    with pytest.raises(CheckpointError, match="do not fit together"):
        Checkpoint.read(edited(saved, encoder={"hidden": 8, "color": "red"})).model()
    with pytest.raises(CheckpointError, match="format version 99"):
        Checkpoint.read(edited(saved, version=99)).model()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("encoder", "hidden", 100_000),
        ("encoder", "hidden", 10**12),
        ("encoder", "layers", 1000),
        ("encoder", "layers", 10**15),
        ("encoder", "stack", 999),
        ("encoder", "projection", 99_999),
        ("encoder", "hidden", "8"),
        ("encoder", "hidden", float("nan")),
        ("encoder", "dropout", float("nan")),
        ("encoder", "chunk", [1, float("nan")]),
        ("encoder", "chunk", None),
        ("features", "mels", 10**9),
        ("features", "sample_rate", 10**12),
        ("features", "sample_rate", float("inf")),
        ("features", "window_ms", float("nan")),
        ("features", "window_ms", 1e9),
        ("features", "floor", "x"),
        ("decoder", "beam", float("nan")),
        ("decoder", "priors", None),
        ("decoder", "priors", [float("nan")]),
        ("decoder", "language_model", 3),
        ("decoder", "lexicon", "a" * 5_000),
        ("decoder", "strict", "yes"),
        ("decoder", "x" * 50_000, 1),
    ],
)
def test_absurd_values_are_refused_before_anything_is_allocated(
    saved, section: str, key: str, value: object
) -> None:
    payload = torch.load(saved, weights_only=True)
    checkpoint = Checkpoint.read(edited(saved, **{section: payload[section] | {key: value}}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="do not fit together") as caught:
        _ = checkpoint.model(), checkpoint.decoder
    assert len(str(caught.value)) < 2_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000


@pytest.mark.parametrize(
    ("part", "value"),
    [("vocabulary", 3), ("weights", []), ("facts", None), ("features", []), ("encoder", "x")],
)
def test_parts_of_another_type_are_refused(saved, part: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"the part {part} is damaged"):
        Checkpoint.read(edited(saved, **{part: value}))


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1).expand(10**7, 10**7),
        torch.tensor([float("nan")]),
        torch.zeros(29, dtype=torch.complex64),
        torch.zeros(29, device="meta"),
        "x",
    ],
)
def test_weights_that_are_no_numbers_are_refused(saved, weight: object) -> None:
    weights = torch.load(saved, weights_only=True)["weights"]
    with pytest.raises(CheckpointError, match=r"the weights head\.bias are damaged"):
        Checkpoint.read(edited(saved, weights=weights | {"head.bias": weight}))


def test_symbols_that_are_no_characters_are_not_described(saved) -> None:
    checkpoint = Checkpoint.read(edited(saved, vocabulary=["<blank>", "a", 3]))
    with pytest.raises(CheckpointError, match="symbol 2 of a vocabulary is 3"):
        checkpoint.describe()


def test_a_compressed_checkpoint_is_refused(saved) -> None:
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint.read(saved)


def test_a_part_that_is_missing(saved) -> None:
    payload = torch.load(saved, weights_only=True)
    del payload["facts"]
    torch.save(payload, saved)
    with pytest.raises(CheckpointError, match="lacks facts"):
        Checkpoint.read(saved).model()


def test_a_failed_write_leaves_the_old_file(saved) -> None:
    before = saved.read_bytes()

    def fail(file) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match=r"best\.pt could not be written \(No space left"):
        write_atomically(saved, fail)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_leaves_the_old_file(model, saved) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    before = saved.read_bytes()

    def write(_) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            torch.save({"x": torch.zeros(10_000)}, full)

    with pytest.raises(FileError, match="could not be written"):
        write_atomically(saved, write)
    assert saved.read_bytes() == before
