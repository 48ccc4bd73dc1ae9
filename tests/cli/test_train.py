"""`asr train`: the recipes' configurations without a clone."""

import re
import sys
from pathlib import Path

import pytest
from project import ROOT

from asr.cli.main import main
from asr.cli.train import RECIPES
from asr.data.manifest import Utterance, write_manifest

SMALL = ("encoder.hidden=8", "encoder.layers=1", "training.epochs=1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run `asr train` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["asr"])

    def run_words(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["train", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run_words


@pytest.fixture
def manifests(tones: list[Utterance], tmp_path: Path) -> tuple[str, ...]:
    write_manifest(tmp_path / "t.jsonl", tones[:5])
    write_manifest(tmp_path / "d.jsonl", tones[:2])
    return "--train", "t.jsonl", "--dev", "d.jsonl"


def test_it_trains_and_resumes(run, manifests, tmp_path: Path) -> None:
    words = (*manifests, *SMALL, "--device", "cpu", "--threads=1", "--workers=0")
    code, out, err = run(*words)
    assert code == 0, err
    assert "Trained. Best dev WER" in out
    assert "Epoch 1/1" in err
    assert (tmp_path / "runs" / "folder" / "best.pt").exists()
    code, out, _ = run(*words)
    assert code == 0
    assert "Resuming in" in out


def test_options_may_stand_between_values(run, manifests) -> None:
    code, out, _ = run("training.seed=7", *manifests, "folder=a", "--workers", "0", "--cfg", "job")
    assert code == 0
    for line in ("folder: a", "  train: t.jsonl", "  seed: 7", "  workers: 0"):
        assert line in out.splitlines()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_named(run, name: str) -> None:
    code, out, _ = run("--recipe", name, "--cfg", "job")
    assert code == 0
    assert f"folder: runs/{name}" in out


def test_the_recipes_are_those_of_the_clone() -> None:
    assert set(RECIPES) == {path.parent.name for path in ROOT.glob("recipes/*/train.py")}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["training.epohcs=1"], "epohcs"),
        (["training.epochs=0"], "training.epochs is 0; it must be at least 1."),
        (["data.train=none.jsonl"], "none.jsonl"),
        (["--recipe", "birds"], "birds"),
        (["--train", "t.jsonl"], "--train and --dev must be given together"),
        (["training.epochs=1", "more"], "more is not key=value"),
        (["--epochs", "1"], "--epochs"),
    ],
)
def test_wrong_words_are_refused_by_name(run, words: list[str], named: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert named in err
    assert out == ""
    assert "Traceback" not in err


def test_help_has_examples(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert out.count("  asr train --train train.jsonl --dev dev.jsonl") == 3


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("encoder=3", "a value cannot be read .*must be a string"),
        ("training.seed=" + "9" * 5_000, "a value cannot be read .*limit"),
        ("training.seed=" + "{a:" * 5_000, "no viable alternative"),
        ("features.window_ms=" + "9" * 400, "a value cannot be read .*too large"),
    ],
)
def test_values_that_hydra_cannot_read_are_one_short_sentence(
    run, manifests, value: str, named: str
) -> None:
    code, _, err = run(*manifests, value)
    assert code == 2
    assert re.match(f"asr: {named}", err)
    assert len(err.splitlines()) == 1
    assert len(err) < 3_000
