"""The English recipe's long_audio.py: an hour's text and a long stream's memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from english import RATE, one_line, write_data, write_model
from loading import load
from project import ROOT

from asr.data.manifest import read_manifest
from asr.decoder.hypothesis import Hypothesis, Word

long_audio = load(ROOT / "recipes" / "english" / "long_audio.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def run_long(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "long" / "results.json"
    command = ["--checkpoint", str(checkpoint), "--manifest", str(data / "dev-near.jsonl")]
    common = ["--device", "cpu", "--threads", "1", "--output", str(results)]
    code = long_audio.main([*command, *common, *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


def test_a_long_recording_and_a_long_stream(checkpoint: Path, data: Path, capsys) -> None:
    code, found = run_long(checkpoint, data, "--hours", "0.015", "--stream-hours", "0.04")
    rows = found["text"]
    assert [(row["latency"], row["endpoints"]) for row in rows] == [
        ("default", True),
        ("default", False),
        ("640 ms", True),
        ("640 ms", False),
    ]
    assert all(len(row["parts_long_percent"]) == 10 for row in rows)
    assert code == int(rows[0]["worse_percent"] > 1)
    stream = found["stream"]
    assert len(stream["resident_mb"]) == 4
    assert stream["settled"] == 1
    assert stream["growth_mb"] == max(stream["resident_mb"][1:]) - stream["resident_mb"][1]
    assert (data / "long" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "Growth after minute 1" in capsys.readouterr().out


def test_the_long_recording_is_what_it_says(data: Path, tmp_path: Path) -> None:
    arguments = ["--hours", "0.01", "--pause", "0.5", "0.8", "--floor", "-70"]
    options = long_audio.parse(arguments)
    utterances = read_manifest(data / "dev-far.jsonl")
    recording = long_audio.write(tmp_path / "long.wav", utterances, RATE, options)
    samples, rate = soundfile.read(tmp_path / "long.wav")
    assert rate == RATE
    assert recording.seconds == len(samples) / RATE >= 36
    assert recording.indices == [number % 3 for number in range(len(recording.indices))]
    assert len(recording.cuts) == len(recording.indices) - 1
    for cut in recording.cuts:
        pause = samples[round((cut - 0.2) * RATE) : round((cut + 0.2) * RATE)]
        assert 20 * np.log10(pause.std()) == pytest.approx(-70, abs=1)
    begin = len(samples[: round(recording.cuts[0] * RATE)])
    assert samples[: RATE // 2].std() == pytest.approx(0.1, rel=0.05), "the first recording"
    assert 0.5 + 0.25 <= begin / RATE <= 0.5 + 0.4


def test_words_belong_to_where_their_middle_is() -> None:
    words = tuple(
        Word(text, start, end, 1.0)
        for text, start, end in [("a", 0.0, 0.9), ("b", 0.8, 1.5), ("c", 1.9, 2.5), ("d", 4.0, 4.1)]
    )
    hypothesis = Hypothesis("a b c d", words, 1.0, 0.0)
    assert long_audio.divide(hypothesis, [1.0, 2.0, 3.0]) == ["a", "b", "c", "d"]
    assert long_audio.divide(hypothesis, [2.5]) == ["a b c", "d"]
    assert long_audio.edges(25)[:3] == [0, 2, 5]
    assert long_audio.edges(3) == [0, 1, 2, 3]


def test_long_audio_refuses_in_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    both = write_model(tmp_path / "both.pt", "bidirectional")
    for model, arguments, named in (
        (both, [], "bidirectional"),
        (checkpoint, ["--latency", "20"], "20 ms is out of range"),
        (checkpoint, ["--silence", "-1"], "endpoint.silence"),
        (checkpoint, ["--manifest", "no-such.jsonl"], "no-such.jsonl"),
    ):
        assert run_long(model, data, *arguments) == (2, {})
        assert named in one_line(capsys.readouterr().err)
    for arguments in (["--hours", "0", "--stream-hours", "0"], ["--pause", "2", "1"]):
        with pytest.raises(SystemExit, match="2"):
            long_audio.parse(arguments)
