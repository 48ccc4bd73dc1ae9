"""The English recipe's latency.py: errors at each operating point."""

import json
from pathlib import Path

import numpy as np
import pytest
from english import RATE, one_line, write_data, write_model
from loading import load
from project import ROOT

from asr import scoring
from asr.audio.waveform import Resampler
from asr.data.manifest import read_manifest
from asr.recognizer import OperatingPoint, Recognizer
from asr.scoring import score

evaluate = load(ROOT / "recipes" / "english" / "evaluate.py")
latency = load(ROOT / "recipes" / "english" / "latency.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def run(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "results" / "results.json"
    common = ["--device", "cpu", "--threads", "1", "--minutes", "0", "--output", str(results)]
    code = evaluate.main(["--checkpoint", str(checkpoint), "--data", str(data), *common, *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals do not matter here, and take most of the time."""
    monkeypatch.setattr(scoring, "RESAMPLES", 10)


def run_latency(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "latency" / "latency.json"
    common = ["--device", "cpu", "--threads", "1", "--live-seconds", "0.5"]
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--output", str(results)]
    code = latency.main([*command, *common, "--source-rate", "48000", *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


@pytest.mark.usefixtures("few_resamples")
def test_every_operating_point_is_measured(checkpoint: Path, data: Path, capsys) -> None:
    code, found = run_latency(checkpoint, data, "--latency", "500", "160", "--split", "320")
    assert code == 0
    points = found["points"]
    assert [(point["chunk"], point["right"]) for point in points[:3]] == [(1, 0), (2, 1), (6, 6)]
    assert [point["latency_ms"] for point in points] == pytest.approx([55, 135, 495, None])
    shares = found["splits"]["320"]
    assert [(share["chunk"], share["right"]) for share in shares] == [
        (7, 0),
        (6, 1),
        (4, 3),
        (2, 5),
    ]

    recognizer = Recognizer.load(checkpoint)
    for point, milliseconds in ((points[1], 160), (shares[2], 320)):
        here = OperatingPoint(milliseconds, endpoint=None)
        utterances = read_manifest(data / "dev-near.jsonl")
        texts = {u.id: recognizer.transcribe(u.audio, here).text for u in utterances}
        report = score({u.id: u.text for u in utterances}, texts, "english")
        assert point["sets"]["near"]["greedy"]["wer"] == report.wer
    whole = run(checkpoint, data)[1]["sets"]
    for name, rates in points[-1]["sets"].items():
        assert rates["greedy"]["substitutions"] == whole[name]["greedy"]["substitutions"]
    assert points[0]["sets"] != points[-1]["sets"], "the latency acts"

    wait = found["resampler_ms"]["48000"]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["135", f"{135 + wait:.0f}", "2", "+", "1"] in [row[:5] for row in rows]
    assert (data / "latency" / "latency.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("few_resamples")
def test_a_forward_encoder_has_one_point(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    forward = write_model(tmp_path / "forward.pt", "forward")
    code, found = run_latency(checkpoint, data, "--forward", str(forward), "--split")
    assert code == 0
    alone = run_latency(forward, data)[1]
    assert [alone["points"][0]["sets"], alone["splits"]] == [found["forward"]["sets"], {}]
    assert len(alone["points"]) == 1
    assert (found["forward"]["chunk"], found["forward"]["latency_ms"]) == (1, pytest.approx(55))
    capsys.readouterr()
    assert run_latency(checkpoint, data, "--forward", str(checkpoint))[0] == 2
    assert "latency_controlled" in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("few_resamples")
def test_latency_with_a_language_model(checkpoint: Path, data: Path) -> None:
    model = str(data / "language-model-small.lm")
    code, found = run_latency(checkpoint, data, "--lm", model, "--latency", "160", "--split")
    assert code == 0
    assert found["decoder"]["alpha"] == 0.7
    whole = run(checkpoint, data, "--profile", "english")[1]["sets"]
    for name, rates in found["points"][-1]["sets"].items():
        assert list(rates) == ["greedy", "beam"]
        for kind in rates:
            assert rates[kind]["wer"] == whole[name][kind]["wer"]


@pytest.mark.usefixtures("few_resamples")
def test_latency_refuses_in_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    both = write_model(tmp_path / "both.pt", "bidirectional")
    for model, arguments, named in (
        (checkpoint, ["--latency", "20"], "20 ms is out of range"),
        (checkpoint, ["--split", "20"], "20 ms is out of range"),
        (checkpoint, ["--manifest", "x=no-such.jsonl"], "no-such.jsonl"),
        (both, [], "bidirectional"),
    ):
        assert run_latency(model, data, *arguments) == (2, {})
        assert named in one_line(capsys.readouterr().err)
    (data / "near1.wav").write_bytes(b"no audio")
    code, found = run_latency(checkpoint, data, "--latency", "160", "--split")
    assert (code, found["unread"]) == (1, ["near, near1"])
    assert "near, near1: " in capsys.readouterr().err


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_no_sound_waits_longer_in_the_resampler(rate: int) -> None:
    wait = latency.resampler_wait(rate, RATE)
    assert 0.01 < wait < 0.2
    resampler = Resampler(rate, RATE)
    done = 0
    for seconds in (0.5, 0.013, 0.001, 0.25, 0.077, 0.4):
        done += len(resampler.feed(np.zeros(round(seconds * rate), np.float32)))
    taken = sum(round(s * rate) for s in (0.5, 0.013, 0.001, 0.25, 0.077, 0.4)) / rate
    assert taken - done / RATE <= wait + 1 / rate
    assert latency.resampler_wait(RATE, RATE) == 0
