"""Averaged checkpoints: the mean of their weights, measured like any other checkpoint, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import write_tones

from asr.checkpoint import Checkpoint, average_checkpoints, save_model
from asr.cli.main import main
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import CheckpointError
from asr.evaluation import evaluate
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.recognizer import Recognizer
from asr.text import Vocabulary

VOCABULARY = Vocabulary.english()


def save(
    path: Path,
    seed: int,
    encoder: EncoderConfig | None = None,
    features: FeaturesConfig | None = None,
    vocabulary: Vocabulary = VOCABULARY,
    mean: float = 0.5,
) -> str:
    torch.manual_seed(seed)
    encoder = encoder or EncoderConfig(layers=1, hidden=8, stack=4)
    model = AcousticModel(features or FeaturesConfig(mels=20), encoder, len(vocabulary))
    model.features.mean.fill_(mean)
    facts = {"epoch": seed, "step": 10 * seed, "dev_wer": 0.5}
    decoder = DecoderConfig("beam", beam=10 + seed)
    training = {"weights": model.state_dict()}
    save_model(path, model, vocabulary, facts, training, decoder)
    return str(path)


@pytest.fixture
def three(tmp_path) -> list[str]:
    return [save(tmp_path / f"epoch-000{seed}.pt", seed) for seed in (1, 2, 3)]


def average(paths: list[str], output: Path) -> Checkpoint:
    return average_checkpoints([Checkpoint.read(path) for path in paths], output)


def test_the_average_is_the_mean_of_the_weights(three, tmp_path) -> None:
    returned = average(three, tmp_path / "average.pt")
    payloads = [Checkpoint.read(path).payload for path in three]
    written = Checkpoint.read(tmp_path / "average.pt")
    assert returned.path == written.path
    assert returned.facts == written.facts
    for name, weight in written.weights.items():
        assert torch.equal(returned.weights[name], weight)
        expected = np.mean([p["weights"][name].numpy() for p in payloads], axis=0, dtype=np.float64)
        assert weight.dtype == torch.float32
        np.testing.assert_array_equal(weight.numpy(), expected.astype(np.float32))
    for part in ("features", "encoder", "decoder", "vocabulary"):
        assert written.payload[part] == payloads[0][part]
    assert written.training is None
    assert written.facts == {
        "average_of": [f"{path} (epoch {n}, step {n}0)" for n, path in enumerate(three, start=1)]
    }
    assert written.vocabulary == VOCABULARY
    assert written.describe()["resumable"] is False


def test_sums_are_of_float64(tmp_path) -> None:
    paths = [save(tmp_path / f"{n}.pt", 1) for n in range(3)]
    for path, value in zip(paths, (1.0, 1e-8, 1e-8), strict=True):
        payload = torch.load(path, weights_only=True)
        payload["weights"]["head.bias"].fill_(value * 3 * 2**24)
        torch.save(payload, path)
    bias = average(paths, tmp_path / "average.pt").weights["head.bias"]
    assert bias.tolist() == [float(np.float32(2**24 * (1 + 2e-8)))] * len(VOCABULARY)
    one, same = Checkpoint.read(paths[0]), average([paths[0]] * 3, tmp_path / "same.pt")
    for name, weight in one.weights.items():
        assert torch.equal(same.weights[name], weight), name


def test_how_they_were_trained_may_differ(tmp_path) -> None:
    kinds = (
        EncoderConfig(layers=1, hidden=8, stack=4, dropout=dropout, chunk=[chunk, 32])
        for dropout, chunk in ((0.1, 4), (0.3, 8))
    )
    paths = [save(tmp_path / f"{n}.pt", n, encoder) for n, encoder in enumerate(kinds)]
    one, other = (Checkpoint.read(path).weights["head.bias"] for path in paths)
    bias = average(paths, tmp_path / "average.pt").weights["head.bias"]
    torch.testing.assert_close(bias, (one + other) / 2)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"encoder": EncoderConfig(layers=1, hidden=16, stack=4)}, r"encoder\.hidden"),
        ({"features": FeaturesConfig(mels=24)}, r"features\.mels"),
        ({"vocabulary": Vocabulary.from_transcripts(["abc"])}, "vocabulary"),
        ({"mean": 0.6}, "the normalization of the features"),
    ],
)
def test_what_has_no_average_is_refused_by_name(tmp_path, other, named: str) -> None:
    paths = [save(tmp_path / "a.pt", 1), save(tmp_path / "b.pt", 2, **other)]
    with pytest.raises(CheckpointError, match=rf"b\.pt cannot .* .*a\.pt \({named} differs"):
        average(paths, tmp_path / "average.pt")
    assert not (tmp_path / "average.pt").exists()


def test_weights_of_another_shape_are_refused(three, tmp_path) -> None:
    payload = torch.load(three[1], weights_only=True)
    payload["weights"]["head.bias"] = torch.zeros(1)
    torch.save(payload, three[1])
    with pytest.raises(CheckpointError, match=r"0002\.pt .*the shape of the weights"):
        average(three, tmp_path / "average.pt")


# The command


def test_the_command_averages_and_measures(three, tmp_path, capsys) -> None:
    manifest, output = str(tmp_path / "dev.jsonl"), tmp_path / "average.pt"
    write_manifest(manifest, write_tones(tmp_path / "tones", 3))
    arguments = ["average", *three, "-o", str(output), "--manifest", manifest]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines, [*three, str(output)], strict=False):
        report = evaluate(Recognizer.load(name), read_manifest(manifest)).report
        assert line == f"WER {100 * report.wer:6.2f} %, CER {100 * report.cer:6.2f} %: {name}"
    assert lines[-1] == f"The average of 3 checkpoints is saved in {output}."
    assert len(lines) == 5
    assert len({line.split(":")[0] for line in lines[:4]}) > 1


def test_the_command_measures_only_when_asked(three, tmp_path, capsys) -> None:
    assert main(["average", *three, "--output", str(tmp_path / "average.pt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_command_refuses_in_one_sentence(three, tmp_path, capsys) -> None:
    before = [Path(path).read_bytes() for path in three]
    gone = tmp_path / "gone.jsonl"
    write_manifest(gone, [Utterance("gone", str(tmp_path / "gone.wav"), 1.0, "a")])
    for arguments, named in (
        ([three[0], "-o", str(tmp_path / "x.pt")], "averaging needs at least two checkpoints"),
        ([*three, "-o", three[0]], "is one of the checkpoints"),
        ([*three, three[1], "-o", str(tmp_path / "x.pt")], "given twice"),
        ([*three[:2], "-o", three[2]], "is a resumable checkpoint"),
        ([*three, "-o", str(tmp_path / "x.pt"), "--manifest", str(gone)], "gone.wav of"),
        ([*three, str(tmp_path / "none.pt"), "-o", str(tmp_path / "x.pt")], "no such checkpoint"),
        ([*three, "-o", str(tmp_path / "x.pt"), "--manifest", "none.jsonl"], "cannot be read"),
    ):
        assert main(["average", *arguments]) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1
        assert not (tmp_path / "x.pt").exists()
    assert [Path(path).read_bytes() for path in three] == before
