"""What commands read and leave on the disk, and what they print: nothing is lost in silence."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from commands import RunAsr, one_sentence
from corpus import write_tones
from files import write_wav

from asr.audio.waveform import find_audio
from asr.data.corpora import read_folder
from asr.data.manifest import write_manifest
from asr.errors import AudioError, DataError

OLD = time.time() - 60


@pytest.fixture
def given(tmp_path: Path, checkpoint: Path) -> dict[str, Path]:
    """Inputs of the commands."""
    manifest = tmp_path / "in" / "dev.jsonl"
    tones = write_tones(manifest.parent, 4)
    write_manifest(manifest, tones)
    sentences = tmp_path / "in" / "sentences.txt"
    sentences.write_text("the cat sat\nthe dog sat\n" * 5)
    return {
        "MANIFEST": manifest,
        "AUDIO": Path(tones[0].audio),
        "TEXT": sentences,
        "CHECKPOINT": checkpoint,
    }


COMMANDS = {  # the file that each command writes, among its words
    "align AUDIO bad --checkpoint CHECKPOINT --output OUT/words.json": "words.json",
    "evaluate MANIFEST --checkpoint CHECKPOINT --output OUT": "report.json",
    "doctor MANIFEST --threads 1 --html OUT/page.html": "page.html",
    "lm train TEXT --order 2 --output OUT/two.lm": "two.lm",
    "info AUDIO --picture OUT/sound.png": "sound.png",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_leftovers_of_a_killed_command_are_removed(
    run_asr: RunAsr, given: dict[str, Path], tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    leftover = out / f".{COMMANDS[command]}.0123456789abcdef"
    leftover.write_bytes(b"half")
    os.utime(leftover, (OLD, OLD))
    other = out / ".another.0123456789abcdef"
    other.touch()
    os.utime(other, (OLD, OLD))
    words = [str(given.get(word, word)).replace("OUT", str(out)) for word in command.split()]
    code, _, err = run_asr(*words)
    assert code in (0, 1), err
    assert (out / COMMANDS[command]).stat().st_size > 0
    assert not leftover.exists()
    assert other.exists()


@pytest.mark.parametrize(
    "command",
    [
        "align none.wav words --checkpoint CHECKPOINT --output OUT/x.json",
        "info AUDIO --picture OUT/x.png",
        "tune none.jsonl --checkpoint CHECKPOINT --picture OUT/x.png",
        "average none.pt nothing.pt --output OUT/x.pt",
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    run_asr: RunAsr, given: dict[str, Path], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file")
    words = [str(given.get(word, word)).replace("OUT", out) for word in command.split()]
    code, _, err = run_asr(*words)
    assert code == 2
    assert "cannot be written (" in one_sentence(err)


@pytest.mark.parametrize(
    "words",
    [
        ("\x1b[2J",),
        ("transcribe", "x.wav", "--\x1b[2J"),
        ("transcribe", "x.wav", "--threads", "\x9b2J"),
        ("transcribe", "\x1b[2J.wav"),
        ("score", "\x1b[2J", "b"),
    ],
)
def test_no_message_steers_the_terminal(run_asr: RunAsr, words: tuple[str, ...]) -> None:
    code, out, err = run_asr(*words)
    assert code in (1, 2)
    assert "2J" in err
    assert not set("\x1b\x9b") & set(out + err)


def test_the_advice_on_names_that_collide_works(
    run_asr: RunAsr, checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("a/x.wav", "b/x.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        write_wav(tmp_path / "in" / name)
    options = "--checkpoint", checkpoint, "--output", tmp_path / "out"
    code, _, err = run_asr("transcribe", tmp_path / "in/a", tmp_path / "in/b", *options)
    assert code == 2
    assert f"pass the folder {tmp_path / 'in'} instead" in one_sentence(err)
    assert run_asr("transcribe", tmp_path / "in", *options)[0] == 0
    assert {str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/*/*")} == {
        "a/x.txt",
        "b/x.txt",
    }
    shutil.copy(tmp_path / "in" / "a" / "x.wav", tmp_path / "in" / "a" / "x.flac")
    code, _, err = run_asr("transcribe", tmp_path / "in", *options)
    assert code == 2
    assert "rename one of them" in one_sentence(err)


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a subfolder that may not be read, also by root."""
    for name in ("in/a.wav", "in/locked/b.wav", "in/c.wav"):
        write_wav(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("bad")
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return tmp_path / "in"


def test_a_folder_that_may_not_be_read_is_a_failure_and_the_others_are_transcribed(
    run_asr: RunAsr, checkpoint: Path, locked: Path
) -> None:
    code, out, err = run_asr("transcribe", locked, "--checkpoint", checkpoint)
    assert code == 1
    assert [line.partition("\t")[0] for line in out.splitlines()] == [
        str(locked / "a.wav"),
        str(locked / "c.wav"),
    ]
    assert f"the folder {locked / 'locked'} cannot be read (Permission denied)" in err


def test_a_corpus_with_a_folder_that_may_not_be_read_is_refused(locked: Path) -> None:
    with pytest.raises(DataError, match="locked cannot be read"):
        read_folder(locked, "plain")
    with pytest.raises(AudioError, match="locked cannot be read"):
        find_audio(locked)
