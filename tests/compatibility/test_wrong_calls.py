"""Wrong calls end as they always did: the same exit code, a reason on stderr, no traceback."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import RECIPE, STORED, Done, start, start_recipe, write_workshop
from wrong_calls import RECIPE_WORDS, WRONG_CALLS, observe_wrong_call

RECORDS: list[dict[str, Any]] = json.loads((STORED / "wrong_calls.json").read_text("utf-8"))
IN_A_PROCESS = [  # of its own
    ["asr", "transcribe", "missing.wav", "--checkpoint=run/last.pt"],
    ["asr", "transcribe", "sample.flac", "--checkpoint=cut.pt"],
    ["asr", "transcribe", "sample.flac", "--formt=json"],
    [RECIPE.name, "folder=new", "training.epoch=3"],
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that wrong calls name."""
    folder = tmp_path_factory.mktemp("original")
    write_workshop(folder)
    return folder


@pytest.fixture
def workshop(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of them as the current folder."""
    folder = tmp_path / "workshop"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder)


def name(record: dict[str, Any]) -> str:
    return " ".join(record["argv"])


def check(done: Done, record: dict[str, Any]) -> None:
    assert "Traceback" not in done.err
    assert done.code == record["code"], done
    assert done.err.strip(), "nothing says what is wrong"
    if not record["stdout"]:
        assert done.out == ""


def test_every_call_is_recorded() -> None:
    assert [record["argv"] for record in RECORDS] == WRONG_CALLS


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_it_ends_as_it_always_did(record: dict[str, Any], workshop: Path) -> None:
    check(observe_wrong_call(record["argv"]), record)


@pytest.mark.parametrize("argv", IN_A_PROCESS, ids=" ".join)
def test_it_ends_so_in_a_process_of_its_own(argv: list[str], workshop: Path) -> None:
    [record] = [record for record in RECORDS if record["argv"] == argv]
    door, *words = argv
    if door == RECIPE.name:
        check(start_recipe(*RECIPE_WORDS, *words, cwd=workshop), record)
    else:
        check(start(*words, cwd=workshop), record)
