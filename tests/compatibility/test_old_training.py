"""A training that an older version began and that was killed: the present one ends it the same way."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import (
    STORED,
    TRAINING,
    Done,
    call_recipe,
    differences,
    read_index,
    restore_training,
    start_recipe,
)
from observations import final_weights, observe_index, observe_run, step_losses

TOLERANCE = 1e-4  # relative: processors round differently
STORED_RUN: dict[str, Any] = json.loads((STORED / "run.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the training goes on."""
    folder = tmp_path_factory.mktemp("resumed")
    restore_training(folder)
    with (folder / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "step": 9, "epo')  # as a killed process leaves it
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Done:
    """How the training ended."""
    return start_recipe(*TRAINING, cwd=folder)


@pytest.fixture
def run(folder: Path, done: Done) -> Path:
    """The folder of the training that has ended."""
    assert done.code == 0, done.err
    return folder / "run"


def test_it_goes_on_in_the_middle_of_an_epoch(done: Done) -> None:
    assert done.code == 0, done.err
    assert STORED_RUN["done before"] % 4  # steps of an epoch
    assert "Traceback" not in done.err


def test_step_losses_are_the_same(run: Path) -> None:
    losses, stored = step_losses(run), STORED_RUN["losses"]
    before = STORED_RUN["done before"]
    assert losses[:before] == stored[:before]
    assert losses[before:] == pytest.approx(stored[before:], rel=TOLERANCE)


def test_epochs_are_the_same(run: Path) -> None:
    rows = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert list(differences(epochs, STORED_RUN["epochs"], TOLERANCE)) == []


def test_final_weights_are_the_same(run: Path) -> None:
    found = final_weights(run)
    with np.load(STORED / "final-weights.npz") as stored:
        assert sorted(found) == sorted(stored.files)
        for name in stored.files:
            np.testing.assert_allclose(
                found[name], stored[name], rtol=TOLERANCE, atol=1e-5, err_msg=name
            )


def test_what_it_leaves_has_the_same_structure(run: Path) -> None:
    assert list(differences(observe_run(run), STORED_RUN["left"], 0)) == []


def test_the_stored_index_is_taken_or_made_anew(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert observe_index() == STORED_RUN["index"]
    manifest = folder / "corpus" / "train.jsonl"
    stored = STORED / "train.jsonl.index"
    kept = Path(f"{manifest}.index").read_bytes() == stored.read_bytes()
    # Another Python may know other letters, and then makes its own.
    same_letters = (
        read_index(Path(f"{manifest}.index"))["facts"]["format"]
        == (read_index(stored)["facts"]["format"])
    )
    assert kept == same_letters


def test_a_damaged_index_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restore_training(tmp_path)
    shutil.rmtree(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    index = tmp_path / "corpus" / "train.jsonl.index"
    index.write_bytes(index.read_bytes()[:-5])
    done = call_recipe(*TRAINING, "training.epochs=1")
    assert done.code == 0, done.err
    assert observe_index() == STORED_RUN["index"]
