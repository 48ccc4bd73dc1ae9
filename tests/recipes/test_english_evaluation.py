"""The English recipe's evaluate.py: errors, confidence, false alarms, the training's curve."""

import io
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import tiny_task, write_tones
from english import RATE, one_line, write_data, write_model, write_noise
from loading import load
from project import ROOT

from asr.cli.main import main as asr
from asr.data.manifest import read_manifest, write_manifest
from asr.decoder.config import DecoderConfig
from asr.errors import DataError
from asr.recognizer import Recognizer
from asr.training.metrics import Metrics
from asr.training.run import train

evaluate = load(ROOT / "recipes" / "english" / "evaluate.py")
alarms = sys.modules[evaluate.find_noises.__module__]
curve = sys.modules[evaluate.read_runs.__module__]


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


def test_the_figures_are_those_of_the_command(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    code, found = run(checkpoint, data)
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert found["decoder"]["alpha"] == 0.7
    assert found["decoder"]["language_model"] == str(data / "language-model-small.lm")
    assert list(found["sets"]) == ["far", "near"]
    for name, rates in found["sets"].items():
        command = ["evaluate", str(data / f"dev-{name}.jsonl"), "--checkpoint", str(checkpoint)]
        for kind, decoder in {
            "greedy": [],
            "beam": ["--lm", found["decoder"]["language_model"]],
        }.items():
            folder = tmp_path / f"{name}-{kind}"
            assert asr([*command, *decoder, "--device", "cpu", "-o", str(folder)]) == 0
            report = json.loads((folder / "report.json").read_text())
            for key in ("wer", "cer", "words", "substitutions", "insertions", "deletions"):
                assert rates[kind][key] == report[key], (name, kind, key)
            assert rates[kind]["low"] <= report["wer"] <= rates[kind]["high"]
            [line] = [line for line in lines if line.startswith(f"{name} ")]
            assert f"{100 * report['wer']:.2f} [" in line


def test_named_sets_and_greedy_alone(checkpoint: Path, data: Path, capsys) -> None:
    (data / "language-model-small.lm").unlink()
    code, found = run(checkpoint, data, "--manifest", f"held out={data / 'dev-near.jsonl'}")
    assert code == 0
    assert "greedy decoding only" in capsys.readouterr().out
    assert list(found["sets"]) == ["held out"]
    assert "beam" not in found["sets"]["held out"]
    assert found["sets"]["held out"]["utterances"] == 4


def test_a_recording_that_cannot_be_read_counts_as_deleted(
    checkpoint: Path, data: Path, capsys
) -> None:
    good = run(checkpoint, data)[1]["sets"]["near"]
    (data / "near1.wav").write_bytes(b"no audio")
    code, found = run(checkpoint, data)
    assert code == 1
    assert "near, near1: " in capsys.readouterr().err
    near = found["sets"]["near"]
    assert (near["unread"], near["utterances"]) == (1, 4)
    assert near["greedy"]["words"] == good["greedy"]["words"]
    assert near["greedy"]["deletions"] >= 4
    assert found["sets"]["far"]["unread"] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lm", "no-such.lm"], "no-such.lm"),
        (["--manifest", "x=no-such.jsonl"], "no-such.jsonl"),
        (["--checkpoint", "no-such.pt"], "no-such.pt"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_evaluation_refuses_in_one_sentence(
    checkpoint: Path, data: Path, arguments: list[str], named: str, capsys
) -> None:
    code, found = run(checkpoint, data, *arguments)
    assert (code, found) == (2, {})
    assert named in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("manifests", [["x"], ["=x"], ["x="], ["x=a", "x=b"]])
def test_each_set_needs_a_name(manifests: list[str], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.parse([word for each in manifests for word in ("--manifest", each)])
    assert "--manifest" in capsys.readouterr().err


def test_no_dev_set(checkpoint: Path, tmp_path: Path, capsys) -> None:
    assert run(checkpoint, tmp_path)[0] == 2
    assert "run prepare.py" in one_line(capsys.readouterr().err)


def test_a_language_model_of_the_checkpoint_is_its_own(data: Path, tmp_path: Path) -> None:
    """The one that is given comes first, then a released model's own, then the recipe's."""
    small, own = str(data / "language-model-small.lm"), str(tmp_path / "own.lm")
    arguments = ["--data", str(data)]
    for config, more, expected in (
        (DecoderConfig("beam", language_model=own), ["--lm", "x.lm"], "x.lm"),
        (DecoderConfig("beam", language_model=own), [], own),
        (DecoderConfig(), [], small),
    ):
        options = evaluate.parse([*arguments, *more])
        assert evaluate.find_language_model(options, config) == expected
    options = evaluate.parse(["--data", str(tmp_path)])
    assert evaluate.find_language_model(options, DecoderConfig()) is None


# Confidence


def make_words(speakers: int, each: int = 60) -> list:
    """Words of two sets, right as often as a logistic of their posteriors says."""
    random = np.random.default_rng(4)
    posteriors = 1 / (1 + np.exp(-random.normal(1, 2.5, speakers * each)))
    right = random.random(len(posteriors)) < evaluate.calibrate(posteriors, 0.6, -1.0)
    return [
        evaluate.Judged(
            "near" if number % 3 else "far", f"s{number % speakers}", float(p), bool(is_right)
        )
        for number, (p, is_right) in enumerate(zip(posteriors, right, strict=True))
    ]


def test_no_speaker_is_in_both_halves() -> None:
    words = make_words(10)
    halves = evaluate.halve_speakers(words)
    sides = {}
    for word, half in zip(words, halves, strict=True):
        sides.setdefault((word.set, word.speaker), set()).add(half)
    assert all(len(side) == 1 for side in sides.values())
    for name in ("near", "far"):
        mine = [half for word, half in zip(words, halves, strict=True) if word.set == name]
        assert 0.4 < np.mean(mine) < 0.6, "both halves have some of each set"
    again = evaluate.halve_speakers(words[::-1])
    assert again[::-1] == halves, "the order does not matter"


def test_the_confidence_is_judged_on_the_other_half() -> None:
    words = make_words(100)
    found = evaluate.measure_confidence(words, own=(1.0, 0.0))
    assert (found["slope"], found["offset"]) == pytest.approx((0.6, -1.0), abs=0.12)
    assert found["calibration_error"] < 0.03 < found["own"]["calibration_error"]
    assert found["auroc"] == pytest.approx(found["own"]["auroc"], abs=0.01)
    assert found["words"] == len(words) == sum(bin["words"] for bin in found["bins"])
    assert sum(figures["words"] for figures in found["sets"].values()) == len(words)

    first = evaluate.halve_speakers(words)
    posteriors = np.array([word.posterior for word in words])
    right = np.array([word.right for word in words])
    for number, half in enumerate(found["halves"]):
        mine = np.array(first) if number == 0 else ~np.array(first)
        slope, offset = evaluate.fit_confidence(posteriors[~mine], right[~mine])
        assert (half["slope"], half["offset"]) == (slope, offset), "fitted on the other half"
        confidences = evaluate.calibrate(posteriors[mine], slope, offset)
        assert half["calibration_error"] == evaluate.calibration_error(confidences, right[mine])
        assert half["words"] == mine.sum()
    everyone = {(word.set, word.speaker) for word in words}
    assert sum(half["speakers"] for half in found["halves"]) == len(everyone)


def test_nothing_to_fit_is_no_confidence() -> None:
    words = make_words(2)
    assert evaluate.measure_confidence([], own=(1.0, 0.0)) is None
    assert evaluate.measure_confidence([w for w in words if w.right], own=(1.0, 0.0)) is None


def test_the_confidence_is_that_of_the_beam(checkpoint: Path, data: Path, capsys) -> None:
    """With references that are what the beam finds, in part, there is something to fit."""
    recognizer = Recognizer.load(
        checkpoint,
        decoder=DecoderConfig(
            "beam", beam=4, alpha=0.7, language_model=str(data / "language-model-small.lm")
        ),
    )
    for name in ("near", "far"):
        path = data / f"dev-{name}.jsonl"
        told = [
            replace(u, text=recognizer.transcribe(u.audio).text if number < 2 else "not a word")
            for number, u in enumerate(read_manifest(path))
        ]
        write_manifest(path, told)
    code, found = run(checkpoint, data)
    assert code == 0
    confidence = found["confidence"]
    hits = [s["beam"]["words"] - s["beam"]["deletions"] for s in found["sets"].values()]
    hits = sum(hits) - sum(s["beam"]["substitutions"] for s in found["sets"].values())
    assert confidence["right"] == hits > 0
    assert confidence["own"]["slope"] == DecoderConfig().confidence_slope
    assert sum(half["speakers"] for half in confidence["halves"]) == 7, "each one its own"
    assert "Fitted on all: slope" in capsys.readouterr().out
    assert (data / "results" / "results.png").read_bytes().startswith(b"\x89PNG")


# False alarms


def test_each_kind_of_noise_is_repeated(tmp_path: Path) -> None:
    write_noise(tmp_path / "running_tap.wav", 0.3)
    write_noise(tmp_path / "street" / "a.wav", 0.2)
    write_noise(tmp_path / "street" / "b.wav", 0.4)
    noises = alarms.find_noises(tmp_path)
    assert {name: len(paths) for name, paths in noises.items()} == {"running_tap": 1, "street": 2}
    sounds = {
        name: soundfile.read(io.BytesIO(content))
        for name, content in alarms.make_sounds(noises, 2.0, RATE)
    }
    assert list(sounds) == ["digital silence", "faint white noise", "running tap", "street"]
    assert all(len(samples) == 2 * RATE and rate == RATE for samples, rate in sounds.values())
    levels = {name: 20 * np.log10(samples.std() + 1e-9) for name, (samples, _) in sounds.items()}
    assert levels["digital silence"] < -150
    assert levels["faint white noise"] == pytest.approx(-60, abs=1)
    street = sounds["street"][0]
    period = round(0.6 * RATE)
    assert np.array_equal(street[:period], street[period : 2 * period])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no recording of noise"):
        alarms.find_noises(tmp_path / "empty")


def test_words_a_minute_are_those_of_transcribe(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    write_noise(data / "noise" / "tap.wav", 1.0)
    code, found = run(checkpoint, data, "--minutes", "0.25")
    assert code == 0
    assert found["false_alarms"]["minutes"] == 0.25
    rates = found["false_alarms"]["words_per_minute"]
    assert list(rates) == ["digital silence", "faint white noise", "tap"]
    made = dict(alarms.make_sounds(alarms.find_noises(data / "noise"), 15.0, RATE))
    (tmp_path / "tap.wav").write_bytes(made["tap"])
    transcribe = ["transcribe", str(tmp_path / "tap.wav"), "--checkpoint", str(checkpoint)]
    for kind, more in {
        "greedy": [],
        "beam": ["--lm", str(data / "language-model-small.lm")],
    }.items():
        assert asr([*transcribe, *more, "--device", "cpu", "-o", str(tmp_path / kind)]) == 0
        words = (tmp_path / kind / "tap.txt").read_text().split()
        assert words, "it says something there"
        assert rates["tap"][kind] == len(words) / 0.25
    assert run(checkpoint, data)[1]["false_alarms"] is None, "none was asked for"


def test_noise_that_is_named_has_to_be_there(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    noise = ["--minutes", "1", "--noise"]
    assert run(checkpoint, data, *noise, str(tmp_path / "none"))[0] == 2
    assert "is not a folder" in one_line(capsys.readouterr().err)
    (tmp_path / "empty").mkdir()
    assert run(checkpoint, data, *noise, str(tmp_path / "empty"))[0] == 2
    assert "no recording of noise" in one_line(capsys.readouterr().err)


# The curve


def write_run(folder: Path, epochs: int, hours: float | None = 2.0, pause: float = 0.0) -> None:
    """A run of some steps, in two calls with a pause between them; the second one does a step again."""
    rows = []
    with Metrics(folder) as metrics:
        for epoch in range(1, epochs + 1):
            metrics.write("step", 2 * epoch - 1, {"epoch": epoch, "loss": 1.0})
            position = metrics.position()
            row = {"epoch": epoch, "wer": 1 / epoch, "cer": 0.5 / epoch}
            rows.append(row if hours is None else row | {"hours": hours})
            metrics.write("epoch", 2 * epoch, rows[-1])
    time.sleep(pause)
    with Metrics(folder, position, step=2 * epochs - 1) as metrics:
        metrics.write("epoch", 2 * epochs, rows[-1])


def test_runs_that_follow_one_another_are_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3, pause=0.5)
    write_run(tmp_path / "b", 2, hours=5.0)
    epochs = curve.read_runs([tmp_path / "a", tmp_path / "b"])
    assert [(e.run, e.epoch) for e in epochs] == [
        *(("a", 1), ("a", 2), ("a", 3)),
        *(("b", 1), ("b", 2)),
    ]
    assert [e.audio_hours for e in epochs] == [2, 4, 6, 11, 16]
    assert [e.wer for e in epochs] == [1, 1 / 2, 1 / 3, 1, 1 / 2]
    hours = [e.hours for e in epochs]
    assert hours == sorted(hours)
    assert 0 < hours[-1] < 0.5 / 3600, "the pause between two calls is none of the training's time"


def test_older_runs_have_the_hours_that_they_printed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2, hours=None)
    write_run(tmp_path / "b", 1)
    runs = [tmp_path / "a", tmp_path / "b"]
    assert [e.audio_hours for e in curve.read_runs(runs)] == [None] * 3, "unknown, and so the sum"
    (tmp_path / "a" / "train.log").write_text(
        "Model: 7.9 M parameters. Training set: 34557 utterances, 42.35 h. 1 process(es)\n"
    )
    assert [e.audio_hours for e in curve.read_runs(runs)] == pytest.approx([42.35, 84.7, 86.7])


def test_a_training_leaves_what_the_curve_needs(tmp_path: Path) -> None:
    tones = write_tones(tmp_path / "tones", 4)
    train(tiny_task(tmp_path / "run", tones, epochs=2))
    one, two = curve.read_runs([tmp_path / "run"])
    assert 0 < one.hours < two.hours < 1
    once = sum(utterance.seconds for utterance in tones) / 3600
    assert (one.audio_hours, two.audio_hours) == pytest.approx((once, 2 * once))


def test_the_curve_goes_into_the_results(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3)
    picture = tmp_path / "curve.png"
    run_folder = str(tmp_path / "a")
    code, found = run(checkpoint, data, "--picture", str(picture), "--curve", run_folder)
    assert code == 0
    assert [epoch["epoch"] for epoch in found["training"]] == [1, 2, 3]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_run_is_refused(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    assert run(checkpoint, data, "--curve", str(tmp_path / "none")) == (2, {})
    assert "is not the folder of a run" in one_line(capsys.readouterr().err)
    with Metrics(tmp_path / "begun") as metrics:
        metrics.write("step", 1, {"loss": 1.0})
    assert run(checkpoint, data, "--curve", str(tmp_path / "begun"))[0] == 2
    assert "finished an epoch" in one_line(capsys.readouterr().err)
    write_run(tmp_path / "bare", 1)
    shutil.rmtree(tmp_path / "bare" / "tensorboard")
    assert run(checkpoint, data, "--curve", str(tmp_path / "bare"))[0] == 2
    assert "TensorBoard" in one_line(capsys.readouterr().err)
