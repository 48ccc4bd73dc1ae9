"""The README's table of results is written from the released models' results.json only."""

import json
from pathlib import Path

import pytest
from loading import load
from project import ROOT

from asr.release import RELEASED, RESULTS

results = load(ROOT / "scripts" / "results.py")

RATES = {"wer": 0.3456, "low": 0.3, "high": 0.4, "words": 1234}
MEASURED = {
    "sets": {"books": {"utterances": 56, "greedy": RATES, "beam": RATES | {"wer": 0.2345}}},
    "confidence": {"words": 987, "calibration_error": 0.0321, "auroc": 0.876},
    "false_alarms": {
        "minutes": 10.0,
        "words_per_minute": {
            "silence": {"greedy": 9.0, "beam": 0.0},
            "running tap": {"greedy": 0.0, "beam": 0.7},
        },
    },
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "english"
    folder.mkdir()
    (folder / RESULTS).write_text(json.dumps(MEASURED))
    return folder


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    return path


def run(model: Path, readme: Path, *more: str) -> int:
    return results.main([str(model), "--readme", str(readme), *more])


def test_the_table_is_written_between_its_marks(model: Path, readme: Path) -> None:
    assert run(model, readme) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{results.BEGIN}\n")
    assert text.endswith(f"\n{results.END}\nafter\n")
    assert "old" not in text
    [row] = [line for line in text.splitlines() if line.startswith("| books")]
    assert [part in row for part in ("56", "1,234", "34.6 % [30.0, 40.0]", "23.4 %")] == [True] * 4
    assert "error 0.032" in text
    assert "curve 0.876" in text
    assert "at most 0.7 words per minute in each" in text, "the default decoder's figure is shown"
    assert run(model, readme) == 0
    assert readme.read_text() == text, "a second run changes nothing"


def test_check_finds_a_difference_and_changes_nothing(model: Path, readme: Path, capsys) -> None:
    old = readme.read_text()
    assert run(model, readme, "--check") == 1
    assert readme.read_text() == old
    out, err = capsys.readouterr()
    assert "-old" in out.splitlines()
    assert "scripts/results.py" in err
    run(model, readme)
    assert run(model, readme, "--check") == 0
    readme.write_text(readme.read_text().replace("34.6 %", "24.6 %"))
    assert run(model, readme, "--check") == 1


def test_missing_measurements_are_left_out(model: Path, readme: Path) -> None:
    greedy = {"sets": {"books": {"utterances": 56, "greedy": RATES}}}
    (model / RESULTS).write_text(json.dumps(greedy | {"confidence": None, "false_alarms": None}))
    assert run(model, readme) == 0
    text = readme.read_text()
    assert "34.6 %" in text
    assert "beam" not in text
    assert "Confidence" not in text
    assert "minute" not in text


@pytest.mark.parametrize("content", [None, "{", '{"sets": {"a": {}}}', '{"sets": {}}'])
def test_invalid_results_are_refused(
    model: Path, readme: Path, content: str | None, capsys
) -> None:
    (model / RESULTS).write_text(content) if content else (model / RESULTS).unlink()
    assert run(model, readme) == 2
    assert RESULTS in capsys.readouterr().err
    assert "old" in readme.read_text()


def test_a_readme_without_marks_is_refused(model: Path, readme: Path, capsys) -> None:
    readme.write_text("nothing here\n")
    assert run(model, readme) == 2
    assert results.BEGIN in capsys.readouterr().err


@pytest.mark.skipif(not (RELEASED / RESULTS).exists(), reason="there is no released model")
def test_our_readme_matches_the_results() -> None:
    assert results.main(["--check"]) == 0
