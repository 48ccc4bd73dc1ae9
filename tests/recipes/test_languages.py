"""Other alphabets by the folder recipe: prepare, train, evaluate and transcribe keep every letter."""

import json
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loading import load
from project import ROOT

from asr.cli.main import main
from asr.recipe import run

prepare = load(ROOT / "recipes" / "folder" / "prepare.py")

TINY = """encoder=forward encoder.layers=1 encoder.hidden=16 features.mels=20 runtime.workers=0
    training.epochs=1 training.batch_seconds=10 runtime.device=cpu runtime.processes=1""".split()
LANGUAGES = {
    "russian": (
        "multilingual",
        {"Мой чай ещё горячий.": "мой чай ещё горячий", "«Ёж — по-русски»": "ёж по русски"},
    ),
    "greek": (
        "multilingual",
        {"Η ΟΔΟΣ είναι ωραία;": "η οδος είναι ωραία", "Ναι· ο κόσμος!": "ναι ο κόσμος"},
    ),
    "vietnamese": (
        "multilingual",
        {"Tiếng Việt, phải không?": "tiếng việt phải không", "Đường ở đó.": "đường ở đó"},
    ),
    "turkish": ("turkish", {"IŞIK, İzmir'de.": "ışık izmir'de", "Iğdır!": "ığdır"}),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_letter_arrives(
    language: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    profile, texts = LANGUAGES[language]
    noise = np.random.default_rng(1)
    Path("mine").mkdir()
    for number, text in enumerate(texts):
        soundfile.write(f"mine/{number}.wav", noise.normal(0, 0.1, 40_000), 16_000)
        # The last one as macOS and an old Windows program write it.
        text = unicodedata.normalize("NFD", text) if number else text
        Path(f"mine/{number}.TXT" if number else f"mine/{number}.txt").write_text(text, "utf-8")

    chosen = [] if profile == "multilingual" else ["--profile", profile]
    assert prepare.main(["mine", "--output", "data", *chosen]) == 0
    printed = capsys.readouterr().out
    rows = [
        json.loads(line)
        for name in ("train", "dev")
        for line in Path(f"data/{name}.jsonl").read_text("utf-8").splitlines()
    ]
    assert {row["text"] for row in rows} == set(texts.values())
    letters = set("".join(texts.values())) - {" "}
    assert all(f"{letter} (" in printed for letter in letters)
    assert "letters that the profile" not in printed

    data = ["data.train=data/train.jsonl", "data.dev=data/dev.jsonl"]
    assert run("folder", ["folder=run", *data, *TINY]) == 0
    capsys.readouterr()
    checkpoint = ["--checkpoint", "run/last.pt", "--device", "cpu"]
    command = ["evaluate", "data/dev.jsonl", *checkpoint, "--output", "out"]
    assert main(command) == 0
    evaluated = Path("out/hypotheses.jsonl").read_text("utf-8")
    assert json.loads(evaluated)["text"] in texts.values()
    assert json.loads(evaluated)["text"] in evaluated  # as letters, not as escapes

    capsys.readouterr()
    command = ["transcribe", "mine/0.wav", *checkpoint, "--format", "json", "--nbest", "30"]
    assert main([*command, "--beam", "60"]) == 0
    printed = capsys.readouterr().out
    assert set(printed) & letters - set("abcdefghijklmnopqrstuvwxyz'")
    assert set(printed) <= {chr(code) for code in range(128)} | letters
