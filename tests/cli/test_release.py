"""Released models: a folder that is used like a checkpoint and describes itself."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import RunAsr
from project import ROOT
from safetensors.torch import load_file, save_file
from signals import ARPA, RATES, make_model, make_talk

from asr import release
from asr.checkpoint import Checkpoint, save_model
from asr.decoder.config import DecoderConfig
from asr.lm.model import LanguageModel
from asr.recognizer import Recognizer
from asr.text import Vocabulary

RATE = RATES[1]
RESULTS = {
    "checkpoint": "best.pt",
    "sets": {
        "dev": {
            "utterances": 1234,
            "greedy": {"wer": 0.5, "low": 0.41, "high": 0.59, "words": 9876},
            "beam": {"wer": 0.25, "low": 0.2, "high": 0.3, "words": 9876},
        }
    },
}
MEASURED = RESULTS["sets"]["dev"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder and what is released beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = make_model("latency_controlled")
    decoder = DecoderConfig(kind="beam", alpha=0.7, beta=1.5)
    save_model(folder / "best.pt", model, Vocabulary.english(), {"epoch": 3}, decoder=decoder)
    (tmp_path / "tiny.arpa").write_text(ARPA)
    LanguageModel.read(tmp_path / "tiny.arpa").write(tmp_path / "tiny.lm")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "notes.md").write_text("## Data\n\nTones. CC0.\n")
    soundfile.write(tmp_path / "talk.wav", make_talk(4, RATE), RATE)
    return folder


@pytest.fixture
def released(run_asr: RunAsr, run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    files = ("--lm", "tiny.lm"), ("--results", "results.json"), ("--notes", "notes.md")
    more = [word for option, name in files for word in (option, tmp_path / name)]
    assert run_asr("release", run, folder, *more)[0] == 0
    return folder


def complaint(run_asr: RunAsr, *words: object) -> str:
    code, _, err = run_asr(*words)
    assert code == 2
    return err.strip().splitlines()[-1]


def test_it_is_the_model_in_a_quarter_of_the_space(run: Path, released: Path) -> None:
    whole = Checkpoint.read(run / "best.pt").model()
    small = Checkpoint.read(released).model()
    assert Checkpoint.read(released).vocabulary == Vocabulary.english()
    assert (released / "model.safetensors").stat().st_size < 0.4 * 4 * sum(
        weight.numel() for weight in whole.state_dict().values()
    )
    for name, weight in whole.state_dict().items():
        found = small.state_dict()[name]
        assert found.dtype == torch.float32
        if name.startswith("features."):
            assert torch.equal(found, weight)
        elif weight.ndim == 2:  # whole numbers up to 127 of a step of the row's own
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            assert ((found - weight).abs() <= 0.501 * step).all(), name
            assert (found != weight).any(), name
        else:
            torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-3)


def test_a_row_of_zeros_stays_one(run: Path, tmp_path: Path) -> None:
    payload = Checkpoint.read(run / "best.pt").payload
    payload["weights"]["head.weight"][3] = 0
    release.save_release(tmp_path / "zeros", payload, None, None, "")
    assert not Checkpoint.read(tmp_path / "zeros").payload["weights"]["head.weight"][3].any()


def test_every_door_decodes_it_with_its_own_language_model(
    run_asr: RunAsr, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Checkpoint.read(released).decoder
    assert (config.kind, config.alpha, config.beta) == ("beam", 0.7, 1.5)
    assert Path(config.language_model) == released / "language-model.lm"
    expected = Recognizer.load(released, decoder=config).transcribe(tmp_path / "talk.wav").text
    assert Recognizer.load(released).transcribe(tmp_path / "talk.wav").text == expected
    assert expected
    monkeypatch.setattr("asr.recognizer.RELEASED", released)
    assert Recognizer.default().transcribe(tmp_path / "talk.wav").text == expected

    def text(*options: str) -> str:
        words = ["transcribe", "--checkpoint", released, *options, tmp_path / "talk.wav"]
        code, out, _ = run_asr(*words)
        assert code == 0
        return out.strip()

    assert text() == expected
    assert text("--decoder", "beam") == expected
    assert text("--alpha", "0.7") == expected
    plain = Recognizer.load(released, decoder=DecoderConfig())
    greedy = plain.transcribe(tmp_path / "talk.wav").text
    assert text("--decoder", "greedy") == greedy != expected
    moved = tmp_path / "elsewhere"
    shutil.move(released, moved)
    assert Path(Checkpoint.read(moved).decoder.language_model).parent == moved


def test_the_card_says_what_was_measured(run_asr: RunAsr, released: Path) -> None:
    code, card, _ = run_asr("info", released)
    assert code == 0
    assert (
        "| dev | 1,234 | 9,876 | 50.0 % [41.0, 59.0] | 25.0 % [20.0, 30.0] |" in card.splitlines()
    )
    assert "- epoch: 3" in card.splitlines()
    assert "Tones. CC0." in card.splitlines()
    assert json.loads((released / "results.json").read_text()) == RESULTS


def test_released_again_it_replaces_the_former_one(
    run_asr: RunAsr, run: Path, released: Path
) -> None:
    assert run_asr("release", run / "best.pt", released)[0] == 0
    assert {path.name for path in released.iterdir()} == {
        "card.md",
        "config.json",
        "model.safetensors",
    }
    assert Checkpoint.read(released).decoder.kind == "greedy"
    assert not list(released.parent.glob(".*unfinished"))


def test_what_is_refused(run_asr: RunAsr, run: Path, released: Path, tmp_path: Path) -> None:
    def refusal(*words: object) -> str:
        return complaint(run_asr, *words)

    assert "there is no such checkpoint" in refusal("release", tmp_path / "no.pt", tmp_path / "x")
    assert "is not a released model" in refusal("release", run, tmp_path)
    arpa = "--lm", tmp_path / "tiny.arpa"
    assert "asr lm convert" in refusal("release", run, tmp_path / "x", *arpa)
    notes = "--results", tmp_path / "notes.md"
    assert "no results of an evaluate.py" in refusal("release", run, tmp_path / "x", *notes)
    assert not (tmp_path / "x").exists()
    recording = tmp_path / "talk.wav"
    assert "specify best.pt in it" in refusal("transcribe", "--checkpoint", run, recording)
    (tmp_path / "dev.jsonl").write_text(
        json.dumps({"audio_filepath": str(recording), "duration": 4, "text": "z"}) + "\n"
    )
    tune = refusal("tune", "--checkpoint", released, tmp_path / "dev.jsonl")
    assert "specify a file for the tuned copy with --output" in tune


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff" * 100, None])
def test_a_damaged_folder_is_refused(
    run_asr: RunAsr, released: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    (released / name).unlink()
    if content is not None:
        (released / name).write_bytes(content)
    said = complaint(run_asr, "transcribe", "--checkpoint", released, tmp_path / "talk.wav")
    assert str(released) in said


def test_scales_that_do_not_fit_are_refused(
    run_asr: RunAsr, released: Path, tmp_path: Path
) -> None:
    """Broadcast, a few numbers would become a matrix of any size."""
    weights = load_file(released / "model.safetensors")
    for name in [name for name in weights if name.endswith(".scale")][:1]:
        for shape in [(len(weights[name]),), (1, len(weights[name])), (1, 1)]:
            scale = weights[name].flatten()[: math.prod(shape)].reshape(shape).contiguous()
            save_file(weights | {name: scale}, released / "model.safetensors")
            said = complaint(run_asr, "transcribe", "--checkpoint", released, tmp_path / "talk.wav")
            assert f"{name.removesuffix('.scale')} has the shape" in said


def test_a_full_disk_leaves_the_former_one(
    run_asr: RunAsr, run: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in released.iterdir()}
    monkeypatch.setattr(shutil, "copyfile", fail)
    lm = "--lm", released.parent / "tiny.lm"
    assert "No space left" in complaint(run_asr, "release", run, released, *lm)
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before


def test_the_bundled_model() -> None:
    assert Recognizer.default().transcribe(ROOT / "docs" / "sample.flac").text == (
        "the old man opened the door and looked out into the rain"
    )


def test_weights_are_finite_in_half_precision(released: Path) -> None:
    for weight in Checkpoint.read(released).payload["weights"].values():
        assert np.isfinite(weight.numpy()).all()


def test_a_released_model_is_not_released_again(
    run_asr: RunAsr, released: Path, tmp_path: Path
) -> None:
    said = complaint(run_asr, "release", released, tmp_path / "again")
    assert "is a released model already" in said
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "results",
    [
        {"sets": {}},
        {"sets": []},
        {"sets": {"dev": {}}},
        {"sets": {"dev": {"utterances": 1, "greedy": {"wer": 0.1, "words": 9}}}},
        {"sets": {"dev": {"utterances": 1, "greedy": None}}},
        {"sets": {"dev": MEASURED}, "confidence": {"words": 1}},
        {"sets": {"dev": MEASURED}, "false_alarms": {"minutes": 1, "words_per_minute": {}}},
        {"sets": {"dev": MEASURED}, "false_alarms": 3},
    ],
)
def test_results_that_lack_a_number_are_refused(
    run_asr: RunAsr, run: Path, tmp_path: Path, results: object
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    err = complaint(run_asr, "release", run, tmp_path / "out", "--results", path)
    assert "results.json contains no results of an evaluate.py" in err
    assert not (tmp_path / "out").exists()


def test_a_card_that_is_no_text_is_refused(run_asr: RunAsr, released: Path) -> None:
    (released / "card.md").write_bytes(b"# caf\xe9")
    assert "card.md cannot be read (it is not UTF-8)" in complaint(run_asr, "info", released)


def test_complex_weights_are_refused(run_asr: RunAsr, released: Path) -> None:
    weights = load_file(released / "model.safetensors")
    for name in ("head.bias", "head.weight"):
        changed = weights | {name: weights[name].to(torch.complex64)}
        save_file(changed, released / "model.safetensors")
        assert f"{name} has complex numbers" in complaint(run_asr, "info", released)
