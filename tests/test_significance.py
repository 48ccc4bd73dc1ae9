"""Intervals and tests of differences, against their definitions, simulations and NIST's sc_stats."""

import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from asr.errors import ScoreError
from asr.scoring import score
from asr.significance import (
    compare,
    cut_segments,
    matched_pairs,
    mended_words,
    wer_interval,
)

WORDS = "the old man opened door and looked out into rain again before night fell".split()
SCTK = shutil.which("sctk")
needs_sctk = pytest.mark.skipif(SCTK is None, reason="NIST's sctk is not installed")


def draw_references(draw: random.Random, count: int) -> dict[str, str]:
    return {
        f"spk{number % 7}_{number:03}": " ".join(draw.choices(WORDS, k=draw.randint(1, 15)))
        for number in range(count)
    }


def disturb(draw: random.Random, texts: dict[str, str], rate: float) -> dict[str, str]:
    """Delete, replace and insert words."""
    found = {}
    for name, text in texts.items():
        words: list[str] = []
        for word in text.split():
            if draw.random() < rate / 3:
                continue
            words.append(draw.choice(WORDS) if draw.random() < rate / 3 else word)
            if draw.random() < rate / 3:
                words.append(draw.choice(WORDS))
        found[name] = " ".join(words)
    return found


def write_trn(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(f"{text} ({name})\n" for name, text in texts.items()))
    return path


def run_sctk(folder: Path, *words: str) -> str:
    assert SCTK
    done = subprocess.run([SCTK, *words], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_sctk
def test_errors_equal_those_of_sclite(tmp_path: Path) -> None:
    draw = random.Random(1)
    references = draw_references(draw, 500)
    hypotheses = disturb(draw, references, 0.4)
    report = score(references, hypotheses)
    reference = write_trn(tmp_path / "ref.trn", references)
    hypothesis = write_trn(tmp_path / "hyp.trn", hypotheses)
    files = ["-r", str(reference), "trn", "-h", str(hypothesis), "trn"]
    out = run_sctk(tmp_path, "sclite", *files, "-i", "spu_id", "-o", "rsum", "stdout")
    row = next(line for line in out.splitlines() if "Sum" in line)
    sentences, words, _, sub, deleted, inserted, errors, wrong = map(int, re.findall(r"\d+", row))
    assert (sentences, words) == (500, report.words)
    # sclite weighs a substitution 4, an insertion and a deletion 3, so it may divide errors otherwise.
    assert errors == sub + deleted + inserted
    assert errors == pytest.approx(report.errors, abs=report.errors // 50)
    assert wrong == report.sentence_errors


def same_alignment(draw: random.Random, references: dict[str, str], rate: float) -> dict[str, str]:
    """Like `disturb`, but with errors of which every aligner makes the same: unknown words only."""
    found = {}
    for name, text in references.items():
        words = [f"x{draw.random():.9f}" if draw.random() < rate else word for word in text.split()]
        found[name] = " ".join(words)
    return found


@needs_sctk
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_matched_pairs_test_equals_that_of_sc_stats(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    references = draw_references(draw, 300)
    systems = [same_alignment(draw, references, rate) for rate in (0.3, 0.25)]
    reference = write_trn(tmp_path / "ref.trn", references)
    text = ""
    for number, texts in enumerate(systems):
        hypothesis = write_trn(tmp_path / f"system{number}.trn", texts)
        files = ["-r", str(reference), "trn", "-h", str(hypothesis), "trn", f"system{number}"]
        text += run_sctk(tmp_path, "sclite", *files, "-i", "spu_id", "-o", "sgml", "stdout")
    done = subprocess.run(
        [str(SCTK), "sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "result"],
        input=text,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "result.stats.mapsswe").read_text()
    found = re.search(r"\(# segs: (\d+)\).*\(Z Stat: *(-?[\d.]+)\)", written)
    assert found, written
    difference = compare(*(score(references, texts) for texts in systems))
    assert difference.segments == int(found[1])
    assert difference.z == pytest.approx(float(found[2]), abs=6e-4)


def score_pair(reference: str, first: str, second: str):
    reports = [score({"a": reference}, {"a": text}) for text in (first, second)]
    return reports[0].utterances[0], reports[1].utterances[0]


@pytest.mark.parametrize(
    ("reference", "first", "second", "segments"),
    [
        ("a b c d", "a b c d", "a b c d", []),
        ("a b c d", "x b c d", "a b c d", [(1, 0)]),
        ("a b c d e", "x b c d e", "a b c d x", [(1, 0), (0, 1)]),  # two good words between
        ("a b c", "x b c", "a b x", [(1, 1)]),  # only one
        ("a b c d", "a b c d y", "y a b c d", [(0, 1), (1, 0)]),  # insertions
        ("a b c d", "a b y c d", "a b c d", [(1, 0)]),
        ("", "a", "", [(1, 0)]),
        ("a", "", "", [(1, 1)]),
    ],
)
def test_segments_end_after_two_words_that_both_have_right(
    reference, first, second, segments
) -> None:
    assert cut_segments(*score_pair(reference, first, second)) == segments


def test_segments_have_all_errors() -> None:
    draw = random.Random(4)
    references = draw_references(draw, 200)
    reports = [score(references, disturb(draw, references, rate)) for rate in (0.5, 0.1)]
    pairs = zip(*(report.utterances for report in reports), strict=True)
    segments = [segment for pair in pairs for segment in cut_segments(*pair)]
    assert [sum(errors) for errors in zip(*segments, strict=True)] == [r.errors for r in reports]


def test_matched_pairs_by_its_definition() -> None:
    draw = np.random.default_rng(1)
    differences = draw.integers(-2, 4, 50)
    z, p = matched_pairs(differences.tolist())
    assert z == pytest.approx(differences.mean() / (differences.std(ddof=1) / math.sqrt(50)))
    assert p == pytest.approx(2 * (0.5 - 0.5 * math.erf(abs(z) / math.sqrt(2))))
    assert matched_pairs([-d for d in differences.tolist()]) == pytest.approx((-z, p))
    assert matched_pairs([1, 1, 1]) == matched_pairs([]) == matched_pairs([3]) == (0.0, 1.0)


@pytest.mark.parametrize("by_speaker", [False, True])
def test_intervals_contain_the_truth_in_19_of_20_cases(by_speaker: bool, monkeypatch) -> None:
    """Speakers differ in their rates; without them the interval of grouped data is too narrow."""
    monkeypatch.setattr("asr.significance.RESAMPLES", 1_000)
    random_state = np.random.default_rng(2)
    trials, speakers, each, truth = 300, 40, 10, 0.2
    hits = narrow = 0
    for _ in range(trials):
        spread = 0.1 if by_speaker else 0.0
        rates = np.clip(random_state.normal(truth, spread, speakers), 0, 0.4)
        errors = random_state.binomial(10, np.repeat(rates, each))
        references = {str(n): "w " * 10 for n in range(speakers * each)}
        texts = {str(n): "w " * (10 - wrong) for n, wrong in enumerate(errors)}
        utterances = quick_scores(references, texts, errors)
        groups = [n // each for n in range(speakers * each)] if by_speaker else None
        low, high = wer_interval(utterances, groups)
        hits += low <= truth <= high
        low, high = wer_interval(utterances)
        narrow += low <= truth <= high
    assert 0.92 <= hits / trials <= 0.98
    if by_speaker:
        assert narrow / trials < 0.85


def quick_scores(references, texts, errors):
    """Scores without an alignment, which a bootstrap does not need."""
    from asr.scoring import UtteranceScore

    return [
        UtteranceScore(10, 0, 0, int(wrong), 20, 0, name, references[name], texts[name], ())
        for name, wrong in zip(references, errors, strict=True)
    ]


def test_a_difference_has_the_sign_of_the_better_system() -> None:
    draw = random.Random(6)
    references = draw_references(draw, 200)
    worse, better = (score(references, disturb(draw, references, rate)) for rate in (0.4, 0.2))
    difference = compare(worse, better)
    assert difference.wer == better.wer - worse.wer < 0
    assert difference.interval.low < difference.wer < difference.interval.high < 0
    assert difference.probability == 1
    assert difference.z > 2
    assert difference.p < 0.05
    assert difference.wins > difference.losses
    opposite = compare(better, worse)
    assert (opposite.wins, opposite.losses) == (difference.losses, difference.wins)
    assert opposite.z == pytest.approx(-difference.z)


def test_a_system_equals_itself() -> None:
    draw = random.Random(7)
    references = draw_references(draw, 50)
    report = score(references, disturb(draw, references, 0.3))
    difference = compare(report, report)
    assert (difference.wer, difference.probability, difference.p) == (0, 0.5, 1)
    assert mended_words(report, report) == []


def test_mended_words_are_counted_by_occurrence() -> None:
    references = {"a": "one two two three", "b": "two"}
    first = score(references, {"a": "one two", "b": "x"})
    second = score(references, {"a": "one two two", "b": "two"})
    assert mended_words(first, second) == [("two", 2)]
    assert mended_words(second, first) == []


def test_what_cannot_be_compared() -> None:
    one = score({"a": "x", "b": "y"}, {"a": "x", "b": "y"})
    for other in ({"a": "x", "c": "y"}, {"a": "x", "b": "z"}, {"a": "x"}):
        with pytest.raises(ScoreError, match="same references"):
            compare(one, score(other, other))
    with pytest.raises(ScoreError, match="at least two"):
        compare(one, one, {"a": "same", "b": "same"})
