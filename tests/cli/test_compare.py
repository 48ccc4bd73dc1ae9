"""`asr compare`."""

import json
import random
from pathlib import Path

import pytest
from commands import RunAsr, one_sentence

from asr.scoring import score
from asr.significance import compare

WORDS = "one two three four five six seven".split()


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> dict[str, dict[str, str]]:
    """ref.jsonl with speakers, and three systems of which each is better than the one before."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(3)
    references = {f"u{n}": " ".join(draw.choices(WORDS, k=8)) for n in range(120)}
    with Path("ref.jsonl").open("w") as file:
        for number, (name, text) in enumerate(references.items()):
            record = {"id": name, "text": text, "speaker": f"s{number % 12}"}
            file.write(json.dumps(record) + "\n")
    systems = {}
    for name, rate in (("a", 0.4), ("b", 0.2), ("c", 0.19)):
        systems[name] = {
            key: " ".join("x" if draw.random() < rate else word for word in text.split())
            for key, text in references.items()
        }
        lines = (f"{key} {text}\n" for key, text in systems[name].items())
        Path(f"{name}.txt").write_text("".join(lines))
    return {"ref": references, **systems}


def test_it_prints_rates_intervals_and_tests(files, run_asr: RunAsr) -> None:
    code, out, err = run_asr("compare", "ref.jsonl", "a.txt", "b.txt", "c.txt")
    assert (code, err) == (0, "")
    assert out.startswith("120 utterances, 960 words, 12 speakers; ")
    assert "a bootstrap over speakers" in out
    reports = {name: score(files["ref"], files[name]) for name in "abc"}
    for name, report in reports.items():
        assert f"{name}.txt" in out
        assert f"{100 * report.wer:.2f} %" in out
    speakers = {f"u{n}": f"s{n % 12}" for n in range(120)}
    difference = compare(reports["a"], reports["b"], speakers)
    assert f"WER {100 * difference.wer:+.2f} points" in out
    assert f"{difference.segments:,} segments, z {difference.z:+.2f}" in out
    assert out.count("significantly better") == 2
    assert "words it mended: " in out


def test_json_has_the_same_figures(files, run_asr: RunAsr) -> None:
    code, out, _ = run_asr("compare", "ref.jsonl", "a.txt", "b.txt", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["resampled"] == "speakers"
    wers = [system["wer"] for system in document["systems"]]
    assert wers == [score(files["ref"], files[name]).wer for name in "ab"]
    [difference] = document["differences"]
    assert difference["wer"] == pytest.approx(wers[1] - wers[0])
    assert (difference["system"], difference["against"]) == ("b.txt", "a.txt")


def test_without_speakers_utterances_are_resampled(files, run_asr: RunAsr) -> None:
    Path("ref.txt").write_text("".join(f"{k} {text}\n" for k, text in files["ref"].items()))
    _, out, _ = run_asr("compare", "ref.txt", "a.txt", "b.txt")
    assert "a bootstrap over utterances" in out


@pytest.mark.parametrize(
    ("systems", "level", "code"),
    [
        ("ab", "0.05", 0),
        ("ba", "0.05", 1),
        ("bc", "0.0001", 1),
        ("abc", "0.05", 0),
        ("aa", "0.9", 1),
    ],
)
def test_it_can_gate_a_release(files, run_asr: RunAsr, systems, level, code) -> None:
    names = [f"{name}.txt" for name in systems]
    assert run_asr("compare", "ref.jsonl", *names, "--require-better", level)[0] == code


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("ref.jsonl", "a.txt"), "at least two"),
        (("ref.jsonl", "a.txt", "missing.txt"), "missing.txt"),
        (("ref.jsonl", "a.txt", "short.txt"), "119 only in"),
    ],
)
def test_what_cannot_be_compared(files, run_asr: RunAsr, words, named) -> None:
    Path("short.txt").write_text("u0 one two\n")
    code, out, err = run_asr("compare", *words)
    assert (code, out) == (2, "")
    assert named in one_sentence(err)


def test_a_level_is_a_probability(files, run_asr: RunAsr) -> None:
    for value in ("0", "1", "nan", "often"):
        code, _, err = run_asr("compare", "ref.jsonl", "a.txt", "b.txt", "--require-better", value)
        assert code == 2
        assert "not a probability" in err
