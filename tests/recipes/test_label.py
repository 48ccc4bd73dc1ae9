"""Recordings without transcripts: labels by a recognizer, their filters, and numbers in words."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from english import one_line
from loading import load
from project import ROOT

from asr.data.manifest import read_manifest
from asr.release import RELEASED

label = load(ROOT / "recipes" / "english" / "label.py")
labels = sys.modules["labels"]
spell_numbers = sys.modules["spelling"].spell_numbers
SAMPLE = "the old man opened the door and looked out into the rain"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A sentence, the same with noise as loud as the voice, silence, and no recording."""
    folder = tmp_path / "clips"
    folder.mkdir()
    waveform, rate = soundfile.read(ROOT / "docs" / "sample.flac")
    noise = np.random.default_rng(1).normal(0, np.sqrt(np.mean(waveform**2)), len(waveform))
    soundfile.write(folder / "clear.flac", waveform, rate)
    soundfile.write(folder / "noisy.flac", np.clip(waveform + noise, -1, 1), rate)
    soundfile.write(folder / "silence.flac", np.zeros(rate), rate)
    (folder / "broken.wav").write_bytes(b"no audio")
    return folder


def run(clips: Path, *options: object) -> int:
    return int(label.main([str(clips), *map(str, options)]))


def test_our_own_model_labels_what_it_is_sure_of(clips: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "labeled.jsonl"
    assert run(clips, "-o", output) == 0
    captured = capsys.readouterr()
    assert "broken.wav is left out" in captured.err
    assert "1 left out, silence" in captured.out
    assert "1 left out, mean log-probability below -0.3: label-noisy" in captured.out
    [row] = [json.loads(line) for line in output.read_text().splitlines()]
    assert row["text"] == SAMPLE
    assert row["text_source"] == "released"
    assert -0.3 <= row["log_prob"] <= 0
    [utterance] = read_manifest(output)
    assert utterance.id == "label-clear"
    assert Path(utterance.audio) == clips / "clear.flac"
    assert utterance.seconds == pytest.approx(4.37, abs=0.01)


def test_an_interrupted_run_continues(clips: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    output, table = tmp_path / "labeled.jsonl", tmp_path / "labeled.tsv"
    assert run(clips, "-o", output) == 0
    whole = table.read_text()
    lines = whole.splitlines(keepends=True)
    table.write_text("".join(lines[:2]) + lines[2][:20])  # killed while it wrote the third
    found = []
    transcribe = label.Ours.label

    def count(self: object, paths: list[Path]) -> object:
        found.extend(path.name for path in paths)
        return transcribe(self, paths)

    monkeypatch.setattr(label.Ours, "label", count)
    assert run(clips, "-o", output) == 0
    assert found == ["broken.wav", "silence.flac"]
    assert table.read_text() == whole


def test_two_recognizers_have_to_agree(clips: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other.tsv"

    def others(text: str) -> int:
        other.write_text(f"clear.flac\t4.37\t{text}\t-0.1\t0\t1\n")
        return run(clips, "-o", tmp_path / "labeled.jsonl", "--agree", other)

    assert others("The old men opened the door, and looked out into the rain.") == 0
    assert others("Old men have opened a door and looked.") == 2
    captured = capsys.readouterr()
    assert "1 left out, the other recognizer writes more than 20 % differently" in captured.out
    assert "no label that is good enough" in one_line(captured.err)


def test_sentences_of_the_dev_sets_are_left_out(clips: Path, tmp_path: Path, capsys) -> None:
    dev = tmp_path / "dev.jsonl"
    dev.write_text(json.dumps({"audio_filepath": "x.wav", "duration": 1.0, "text": SAMPLE}))
    assert run(clips, "-o", tmp_path / "labeled.jsonl", "--without", dev) == 2
    captured = capsys.readouterr()
    assert "1 left out as sentences of a dev set" in captured.out
    assert not (tmp_path / "labeled.jsonl").exists()


def test_what_is_refused(clips: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def complaint(*options: object) -> str:
        assert run(clips, "-o", tmp_path / "labeled.jsonl", *options) == 2
        return one_line(capsys.readouterr().err)

    assert "no-such" in complaint("--recognizer", tmp_path / "no-such.pt")
    (tmp_path / "bad.tsv").write_text("clear.flac\t1\n")
    assert "line 1 is not a label" in complaint("--agree", tmp_path / "bad.tsv")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert "pip install 'lstm-asr[whisper]'" in complaint("--recognizer", "whisper:models")
    clips = tmp_path / "empty"
    clips.mkdir()
    assert "holds no recording" in complaint()


def test_a_folder_without_a_whisper_model_is_refused(clips: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("faster_whisper", reason="needs faster-whisper (extra whisper)")
    options = ("--recognizer", f"whisper:{tmp_path}", "-o", tmp_path / "labeled.jsonl")
    assert run(clips, *options) == 2
    assert "holds no Whisper model" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("In 1905, 3 of 20%", "In nineteen oh five, three of twenty percent"),
        ("1,000 men in 1066", "one thousand men in 1066"),
        ("the 1920s and 80s", "the nineteen twenties and eighties"),
        ("the 21st, 12th, 20th and 3rd", "the twenty first, twelfth, twentieth and third"),
        ("$1, £3 and €1 million", "one dollar, three pounds and one million euros"),
        ("a 20-year-old of 1.75 meters", "a twenty-year-old of one point seven five meters"),
        ("1100, 1999 and 2000", "eleven hundred, nineteen ninety nine and two thousand"),
        ("100 at 9.", "one hundred at nine."),
    ],
)
def test_numbers_with_one_reading_are_spelled(written: str, said: str) -> None:
    assert spell_numbers(written) == said


@pytest.mark.parametrize(
    "written",
    [
        "101",
        "2015",
        "$2.50",
        "A4",
        "4x4",
        "10:30",
        "3-1",
        "1.5.2",
        "007",
        "1,5",
        "100th",
        "13s",
        "½",
    ],
)
def test_numbers_with_several_readings_stay(written: str) -> None:
    assert spell_numbers(f"It is {written}.") == f"It is {written}."


def test_the_released_model_is_named_without_its_path() -> None:
    assert label.parse(["x", "-o", "y.jsonl"]).recognizer == "released"
    assert RELEASED.is_dir()
