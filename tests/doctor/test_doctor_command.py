"""The command `asr doctor`: report, HTML page, cleaned manifest and error messages."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from voices import RATE, Corpus

from asr.checkpoint import save_model
from asr.cli import doctor as doctor_command
from asr.cli.main import main
from asr.data.augment import AugmentConfig
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.doctor import report
from asr.doctor.requirements import Requirements
from asr.doctor.sound import measure_sound
from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.model import AcousticModel
from asr.text import Vocabulary
from asr.training.config import TrainingConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def doctor(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `asr doctor` in this process with one thread: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main(["doctor", "--threads", "1", *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def manifest(healthy: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "healthy.jsonl"
    write_manifest(path, healthy.utterances)
    return path


@pytest.fixture
def ill(healthy: Corpus, tmp_path: Path) -> Path:
    """A manifest of five good lines, two with errors, one with a warning, and an unusable one."""
    path = tmp_path / "ill.jsonl"
    digits, muted, gone = healthy.utterances[5:8]
    soundfile.write(tmp_path / "muted.wav", np.zeros(2 * RATE), RATE)
    write_manifest(
        path,
        [
            *healthy.utterances[:5],
            Utterance("d<i>gits", digits.audio, digits.seconds, "room 101 & more", "x"),
            Utterance("muted", str(tmp_path / "muted.wav"), 2.0, muted.text, "x"),
            Utterance("gone", str(tmp_path / "gone.wav"), gone.seconds, gone.text, "x"),
        ],
    )
    with path.open("a") as file:
        file.write("{broken\n")
    return path


class Page(HTMLParser):
    """Collects the elements and the text of a page; every element that begins must end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_healthy_corpus_is_reported_and_copied_unchanged(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    code, out, err = doctor(manifest, "--write", tmp_path / "clean.jsonl", "--strict")
    assert code == 0
    assert "These manifests have no errors and no warnings." in out
    assert "utterances        40" in out
    assert "examining" in err
    assert read_manifest(tmp_path / "clean.jsonl") == healthy.utterances


def test_errors_are_in_all_reports_and_in_the_exit_code(
    doctor: Run, ill: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("report.html", "report.json", "clean.jsonl")]
    code, out, _ = doctor(ill, "--html", files[0], "--json", files[1], "--write", files[2])
    assert code == 1
    assert "Utterances or lines with errors: 3, with warnings: 1." in out
    assert "line 9 is not JSON" in out
    assert f"digits in texts in {ill}: 1 of 8 utterances" in out
    assert "-> Spell numbers out as they are spoken." in out
    report = json.loads(files[1].read_text())
    assert report["counts"] == {"error": 3, "warning": 1, "information": 0}
    cases = {finding["kind"]: finding["cases"] for finding in report["findings"]}
    assert set(cases) == {"line", "audio", "digits", "characters", "silence"}
    assert cases["digits"] == {"d<i>gits": "101"}
    assert report["splits"][str(ill)]["facts"]["utterances"] == "8"
    page = Page()
    page.feed(files[0].read_text())
    page.close()
    assert page.open == []
    assert "i" not in page.seen  # Ids are escaped.
    assert "d<i>gits" in page.text
    assert page.seen.count("svg") == 5
    assert page.seen.count("script") == page.seen.count("link") == 0
    assert [u.id for u in read_manifest(files[2])] == [*(f"h{n}" for n in range(5)), "muted"]
    code, out, _ = doctor(ill, "--write", files[2], "--strict")
    assert "clean.jsonl: 5 utterances" in out
    assert "4 left out" in out
    assert [u.id for u in read_manifest(files[2])] == [f"h{n}" for n in range(5)]


def test_the_cleaned_manifest_keeps_all_keys_and_finds_its_recordings(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    real, deep, corpus = tmp_path / "real", tmp_path / "real" / "deep", tmp_path / "corpus"
    deep.mkdir(parents=True)
    corpus.mkdir()
    utterance = healthy.utterances[0]
    shutil.copy(utterance.audio, real / "x.wav")
    (corpus / "link").symlink_to(deep)  # Seen from the link, `..` is `real`, not `corpus`.
    record = {
        "audio_filepath": "link/../x.wav",
        "duration": utterance.seconds,
        "text": utterance.text,
        "lang": "en",
        "speaker": "s",
    }
    lines = [json.dumps(record), "no JSON", json.dumps(record | {"id": "again", "text": "a 5"})]
    (corpus / "m.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    code, out, _ = doctor(corpus / "m.jsonl", "--write", tmp_path / "clean.jsonl")
    assert code == 1
    assert "line 4 is not UTF-8 text" in out
    [line] = (tmp_path / "clean.jsonl").read_text().splitlines()
    assert json.loads(line) == record | {"audio_filepath": "real/x.wav"}
    [kept] = read_manifest(tmp_path / "clean.jsonl")
    assert measure_sound(kept.audio).seconds == utterance.seconds


def test_any_id_is_shown_and_control_characters_are_escaped(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    first, second = healthy.utterances[:2]
    write_manifest(
        tmp_path / "m.jsonl",
        [
            replace(first, id="7", text=f"{first.text} 7"),
            replace(second, id="a\x1b[31mb", text=f"{second.text} 7"),
        ],
    )
    _, out, _ = doctor(tmp_path / "m.jsonl", "--html", tmp_path / "page.html")
    assert "    7: 7\n" in out
    assert "    a\\x1b[31mb: 7\n" in out
    assert "\x1b" not in (tmp_path / "page.html").read_text()


def test_only_the_terminal_shows_a_few_of_many_cases(
    doctor: Run, healthy: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(
        path, [Utterance(u.id, u.audio, u.seconds, f"{u.text} 7", "x") for u in healthy.utterances]
    )
    code, out, _ = doctor(path, "--json", tmp_path / "all.json")
    assert (code, out.count(": 7")) == (1, report.CASES_SHOWN)
    assert f"and {40 - report.CASES_SHOWN} more" in out
    assert len(json.loads((tmp_path / "all.json").read_text())["findings"][0]["ids"]) == 40
    code, out, _ = doctor(path, "--vocabulary", "transcripts")
    assert code == 0
    assert "with warnings: 40." in out
    alphabet = tmp_path / "alphabet.txt"
    alphabet.write_text("abcdefghijklmnopqrstuvwxyz'7")
    assert doctor(path, "--vocabulary", alphabet)[0] == 0
    alphabet.write_text("ABC")
    code, out, _ = doctor(path, "--vocabulary", alphabet)
    assert (code, ": 7" in out) == (1, True)


def test_the_training_set_is_compared_with_the_others(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    dev = tmp_path / "dev.jsonl"
    write_manifest(dev, healthy.utterances[:2])
    code, out, _ = doctor(manifest, dev, "--write", tmp_path / "clean.jsonl", "--strict")
    assert code == 0
    assert f"h0: the same recording as h0 in {dev}" in out
    speakers = {u.speaker for u in healthy.utterances[:2]}
    kept = [u.id for u in healthy.utterances if u.speaker not in speakers]
    assert [u.id for u in read_manifest(tmp_path / "clean.jsonl")] == kept


def test_a_checkpoint_has_its_own_requirements(
    doctor: Run, manifest: Path, healthy: Corpus, tmp_path: Path
) -> None:
    vocabulary = Vocabulary.from_transcripts(["abc "])
    encoder = EncoderConfig(layers=1, hidden=8, stack=40)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, len(vocabulary))
    save_model(tmp_path / "model.pt", model, vocabulary, {})
    path = tmp_path / "m.jsonl"
    first, second = healthy.utterances[:2]
    write_manifest(
        path,
        [
            Utterance("long", first.audio, first.seconds, "abc abc abc abc abc", "x"),
            Utterance("unknown", second.audio, second.seconds, "d", "x"),
        ],
    )
    code, out, _ = doctor(path, "--checkpoint", tmp_path / "model.pt")
    assert code == 1
    assert "unknown: 'd'" in out
    assert "long: needs 19 encoder frames" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gone.jsonl"], "gone.jsonl cannot be read"),
        (["healthy.jsonl", "healthy.jsonl"], "given twice"),
        (["healthy.jsonl", "--strict"], "--strict only affects --write"),
        (["healthy.jsonl", "--write", "healthy.jsonl"], "would overwrite a manifest"),
        (["healthy.jsonl", "--html", "x", "--json", "x"], "would overwrite the file of --html"),
        (["healthy.jsonl", "--html", "."], ". is a folder"),
        (["healthy.jsonl", "--threads", "0"], "--threads is 0; it must be"),
        (["healthy.jsonl", "--fastest", "0.5"], "--fastest is 0.5; it must be"),
        (["healthy.jsonl", "--batch-seconds", "nan"], "--batch-seconds is nan; it must be"),
        (["healthy.jsonl", "--checkpoint", "gone.pt"], "gone.pt"),
        (["healthy.jsonl", "--checkpoint", "x", "--vocabulary", "english"], "omit --vocabulary"),
        (["healthy.jsonl", "--vocabulary", "englsh"], "--vocabulary is 'englsh'; it must be"),
        (["healthy.jsonl", "--vocabulary", "gone.txt"], "gone.txt cannot be read"),
    ],
)
def test_impossible_arguments_are_refused_in_one_sentence(
    doctor: Run,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(manifest.parent)
    before = sorted(manifest.parent.iterdir())
    code, out, err = doctor(*words)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("asr: ")
    assert complaint in line
    assert sorted(manifest.parent.iterdir()) == before


def test_an_empty_cleaned_manifest_is_refused(doctor: Run, tmp_path: Path) -> None:
    path, clean = tmp_path / "m.jsonl", tmp_path / "clean.jsonl"
    write_manifest(path, [Utterance("gone", str(tmp_path / "gone.wav"), 1.0, "words")])
    code, out, err = doctor(path, "--write", clean)
    assert code == 2
    assert "does not exist" in out  # The report is printed before the error.
    assert "would be left" in err
    assert not clean.exists()


def test_the_defaults_are_those_of_the_recipes() -> None:
    parser = argparse.ArgumentParser()
    doctor_command.declare(parser)
    arguments = parser.parse_args(["m.jsonl"])
    assert arguments.fastest == AugmentConfig().fastest
    assert arguments.batch_seconds == TrainingConfig().batch_seconds == Requirements().batch_seconds


def test_help_is_light() -> None:
    code = """
import sys
from asr.cli.main import main
try:
    main(["doctor", "--help"])
except SystemExit:
    pass
assert not {"torch", "numpy", "scipy", "numba", "soundfile"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MANIFEST" in done.stdout
