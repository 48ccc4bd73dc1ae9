"""Synthetic speech: reproducible bytes for any number of processes, and its use by recipes."""

import gzip
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from loading import load
from project import ROOT

from asr.audio.waveform import load_audio
from asr.data import synthesis
from asr.data.manifest import read_manifest
from asr.data.voices import ENGINES, Espeak
from asr.errors import DataError

pytest.importorskip("espeakng_loader")
prepare = load(ROOT / "recipes" / "english" / "prepare.py")
synthesize = __import__("sys").modules["synthesize"]


@pytest.fixture(autouse=True)
def other_processes_find_the_recipe(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "english"))


SENTENCES = ["one two three", "good night", "the sea is gray today", "it rains", "no"]


def say(texts: list[str], number: int, _: np.random.Generator) -> str:
    return texts[number]


def speak(
    folder: Path, texts: list[str], processes: int, engine: str = "espeak-ng"
) -> list[dict[str, object]]:
    folder.mkdir()
    names = ENGINES[engine].voices()[:7]
    draw = partial(say, texts)
    blocks = synthesis.plan(folder, "a", names, len(texts), (5,), draw, engine, ".flac")
    return [row for made in synthesis.speak(blocks, processes) for row in made]


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(synthesis, "BLOCK", 3)
    one = speak(tmp_path / "one", SENTENCES, 1)
    two = speak(tmp_path / "two", SENTENCES, 2)
    assert one == two
    assert [row["text"] for row in one] == SENTENCES
    for row in one:
        name = str(row["audio_filepath"])
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        waveform = load_audio(tmp_path / "one" / name)
        assert len(waveform) / 16_000 == pytest.approx(row["duration"])
        assert 0.1 < np.abs(waveform).max() < 1  # -15 to -1 dB
    assert len({str(row["speaker"]).split("+")[1] for row in one}) == 5  # voices rotate


def test_a_text_without_sound_is_left_out(tmp_path: Path) -> None:
    assert [row["id"] for row in speak(tmp_path / "a", ["yes", " ", "no"], 1)] == [
        "a-00000",
        "a-00002",
    ]


def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(DataError, match="no voice 'nobody-at-all'"):
        Espeak().say("hello", "nobody-at-all", 150, 50, 50)


def test_without_the_wheel_the_error_names_the_package(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(DataError, match=r"pip install 'lstm-asr\[synthesis\]'"):
        Espeak.voices()


def write_sentences(path: Path) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("".join(f"{line}\n" for line in [*SENTENCES, SENTENCES[0]]))
    return path


def test_english_sentences_are_spoken_once_and_kept(tmp_path: Path, capsys) -> None:
    sentences = write_sentences(tmp_path / "sentences.txt.gz")
    spoken = synthesize.synthesize(sentences, 3, tmp_path, 1)
    assert {u.text for u in spoken} < set(SENTENCES) - {"no"}  # a single word is not a sentence
    assert len({u.text for u in spoken}) == 3
    assert spoken == read_manifest(tmp_path / "synthetic" / "manifest.jsonl")
    first = Path(spoken[0].audio)
    made = first.stat().st_mtime_ns
    assert synthesize.synthesize(sentences, 3, tmp_path, 1) == spoken
    assert first.stat().st_mtime_ns == made
    assert len(synthesize.synthesize(sentences, 2, tmp_path, 1)) == 2
    assert not (tmp_path / ".synthetic.unfinished").exists()
    with pytest.raises(DataError, match="4 sentences of 2 to 12 words"):
        synthesize.synthesize(sentences, 5, tmp_path, 1)
    assert len(read_manifest(tmp_path / "synthetic" / "manifest.jsonl")) == 2


def test_prepare_mixes_them_into_the_training_set(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "ocean"
    for role in ("train", "dev"):
        (folder / role).mkdir(parents=True)
        speak(folder / role / "wav", [f"we see {role}"], 1)
        (folder / role / "wav.scp").write_text(f"{role} wav/a-00000.flac\n")
        (folder / role / "text").write_text(f"{role} WE SEE {role.upper()}\n")
        (folder / role / "utt2spk").write_text(f"{role} {role}\n")
    (tmp_path / "book.txt").write_text("".join(f"{line}\n" for line in SENTENCES) * 3)
    given = ["--speechocean", str(folder), "--output", str(tmp_path / "out")]
    given += ["--text", str(tmp_path / "book.txt"), "--processes", "1"]
    assert prepare.main([*given, "--synthetic", "2"]) == 0
    mixed = read_manifest(tmp_path / "out" / "mixed.jsonl")
    assert [u.id for u in mixed] == ["train", "synthetic-00000", "synthetic-00001"]
    assert all(Path(u.audio).is_file() for u in mixed)
    forbidden = json.loads((tmp_path / "out" / "dev.jsonl").read_text())["text"]
    assert forbidden not in {u.text for u in mixed}
    with pytest.raises(SystemExit):
        prepare.main(["--speechocean", str(folder), "--synthetic", "2"])
    assert "needs the sentences of --text" in capsys.readouterr().err


def test_an_interrupted_synthesis_continues(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(synthesis, "BLOCK", 1)
    sentences = write_sentences(tmp_path / "sentences.txt.gz")
    whole = synthesize.synthesize(sentences, 3, tmp_path / "whole", 1)
    spoken: list[int] = []
    speak_blocks = synthesis.speak

    def stop_after_one(blocks: list[synthesis.Block], processes: int) -> object:
        for block, rows in zip(blocks, speak_blocks(blocks, processes), strict=True):
            if spoken == [0]:
                raise KeyboardInterrupt
            spoken.append(block.first)
            yield rows

    monkeypatch.setattr(synthesis, "speak", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        synthesize.synthesize(sentences, 3, tmp_path / "part", 1)
    assert not (tmp_path / "part" / "synthetic").exists()
    spoken.append(-1)  # the next run may end
    part = synthesize.synthesize(sentences, 3, tmp_path / "part", 1)
    assert spoken == [0, -1, 1, 2], "what was finished is not spoken again"
    for one, other in zip(whole, part, strict=True):
        assert Path(one.audio).read_bytes() == Path(other.audio).read_bytes()
        assert (one.id, one.text, one.seconds) == (other.id, other.text, other.seconds)


def test_hibari_speaks_in_the_recipe(tmp_path: Path, capsys) -> None:
    pytest.importorskip("hibari", reason="needs hibari-tts (extra voices)")
    sentences = write_sentences(tmp_path / "sentences.txt.gz")
    with pytest.raises(DataError, match="2 sentences of 3 to 24 words"):
        synthesize.synthesize(sentences, 3, tmp_path, 1, "hibari")
    spoken = synthesize.synthesize(sentences, 2, tmp_path, 1, "hibari")
    assert {u.text for u in spoken} == {"one two three", "the sea is gray today"}
    assert [u.speaker for u in spoken] == ["hibari 0000", "hibari 0001"]
    for utterance in spoken:
        waveform = load_audio(utterance.audio, expected_seconds=utterance.seconds)
        assert 0.1 < np.abs(waveform).max() < 1
