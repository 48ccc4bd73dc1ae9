"""The English recipe's causes.py: where the errors of a checkpoint come from."""

import json
from pathlib import Path

import numpy as np
import pytest
from english import one_line, write_data, write_model
from loading import load
from project import ROOT

from asr.data.manifest import Utterance
from asr.decoder.hypothesis import Hypothesis
from asr.scoring import score

causes = load(ROOT / "recipes" / "english" / "causes.py")


def test_the_tables_of_a_model(tmp_path: Path, capsys) -> None:
    data, checkpoint = write_data(tmp_path), write_model(tmp_path / "best.pt")
    output = tmp_path / "causes.json"
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--output", str(output)]
    command += ["--device", "cpu", "--threads", "1", "--nbest", "4"]
    assert causes.main(command) == 2
    assert "name one with --lm" in one_line(capsys.readouterr().err)
    language_model = ["--lm", str(data / "language-model-small.lm"), "--gain", "0", "-40"]
    assert causes.main([*command, *language_model]) == 0
    sets = json.loads(output.read_text())["sets"]
    assert list(sets) == ["far", "near"]
    for found in sets.values():
        assert found["oracle"] <= found["beam"] == found["gain"]["+0"]
        assert found["unknown"] == 0
        assert sum(part["words"] for part in found["length"].values()) == found["words"]
    out = capsys.readouterr().out
    assert "< 3 s: " in out
    assert "-40 dB: " in out


def test_the_oracle_picks_the_best_alternative() -> None:
    report = score({"a b": "one two three", "c": "yes"}, {"a b": "one too free", "c": "no"})
    texts = ["won two three", *(f"one too {word}" for word in "free tree fee flee he she".split())]
    others = tuple(Hypothesis(text, (), 1.0, 0.0) for text in texts)
    hypotheses = {
        "a b": Hypothesis("one too free", (), 1.0, 0.0, others),
        "c": Hypothesis("no", (), 1.0, 0.0),
    }
    assert report.wer == 3 / 4
    assert causes.oracle(report, hypotheses, "plain") == 2 / 4


def test_classes_and_speakers() -> None:
    texts = {str(number): "yes " * 20 for number in range(8)}
    heard = {name: "yes " * (20 - int(name)) for name in texts}
    report = score(texts, heard)
    found = causes.by_class(report, {name: float(name) for name in texts}, (2.0, 5.0))
    assert {name: part["words"] for name, part in found.items()} == {
        "< 2": 40,
        "< 5": 60,
        ">= 5": 60,
    }
    assert found["< 2"]["wer"] == pytest.approx(1 / 40)
    utterances = [Utterance(name, "a.wav", 1.0, "yes", name) for name in texts]
    speakers = causes.by_speaker(report, utterances)
    assert speakers["speakers"] == 8
    assert speakers["best"] == pytest.approx(0.5 / 20)
    assert speakers["worst"] == pytest.approx(6.5 / 20)


def test_level_is_that_of_the_samples() -> None:
    assert causes.level(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=1e-4)
    assert causes.level(np.zeros(100, np.float32)) == -120
