"""Scoring, compared with a small edit distance written here and with rapidfuzz."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT
from rapidfuzz.distance import Levenshtein

from asr.errors import ScoreError, TextError
from asr.scoring import LINE_WIDTH, compare_wer, score

TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c'd"]), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    row = list(range(len(right) + 1))
    for i, expected in enumerate(left, start=1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(right, start=1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found)),
            )
    return row[-1]


class TestCounts:
    def test_counts_equal_those_by_hand(self) -> None:
        report = score(
            {"one": "the cat sat on the mat", "two": "yes", "three": "right here"},
            {"two": "yes", "one": "a cat sat the mat now", "three": "right here"},
        )
        assert (report.words, report.substitutions) == (9, 1)
        assert (report.insertions, report.deletions) == (1, 1)
        assert report.wer == pytest.approx(3 / 9)
        assert (report.sentence_errors, report.sentence_error_rate) == (1, pytest.approx(1 / 3))
        one, two, three = report.utterances
        assert (one.id, two.id, three.id) == ("one", "two", "three")
        assert (one.words, one.substitutions, one.insertions, one.deletions) == (6, 1, 1, 1)
        assert one.alignment == (
            ("the", "a"), ("cat", "cat"), ("sat", "sat"), ("on", ""),
            ("the", "the"), ("mat", "mat"), ("", "now"),
        )  # fmt: skip
        assert two.errors == three.errors == 0

    def test_cer_counts_spaces(self) -> None:
        report = score({"u": "ab cd"}, {"u": "abcd"})
        assert (report.characters, report.character_errors, report.cer) == (5, 1, 0.2)

    @given(PAIRS)
    @settings(deadline=None, max_examples=200)
    def test_equals_the_edit_distance_of_each_utterance(self, pairs: list[tuple[str, str]]) -> None:
        report = score(
            {str(i): reference for i, (reference, _) in enumerate(pairs)},
            {str(i): hypothesis for i, (_, hypothesis) in enumerate(pairs)},
        )
        for utterance, (reference, hypothesis) in zip(report.utterances, pairs, strict=True):
            words, found = reference.split(), hypothesis.split()
            assert utterance.errors == edit_distance(words, found)
            assert utterance.errors == Levenshtein.distance(words, found)
            assert utterance.character_errors == edit_distance(reference, hypothesis)
            assert utterance.character_errors == Levenshtein.distance(reference, hypothesis)
            assert (utterance.words, utterance.characters) == (len(words), len(reference))
            # The three kinds of errors agree with the alignment, and the alignment with the texts.
            lengths = len(words) - utterance.deletions + utterance.insertions
            assert lengths == len(found)
            assert [left for left, _ in utterance.alignment if left] == words
            assert [right for _, right in utterance.alignment if right] == found
            substituted = [p for p in utterance.alignment if all(p) and p[0] != p[1]]
            assert len(substituted) == utterance.substitutions
        for name in ["words", "substitutions", "insertions", "deletions", "errors"]:
            total = sum(getattr(utterance, name) for utterance in report.utterances)
            assert getattr(report, name) == total
        assert report.errors == sum(count for *_, count in report.confusions(1000))

    @given(PAIRS)
    @settings(deadline=None)
    def test_order_does_not_matter(self, pairs: list[tuple[str, str]]) -> None:
        references = {str(i): reference for i, (reference, _) in enumerate(pairs)}
        hypotheses = {str(i): hypothesis for i, (_, hypothesis) in enumerate(pairs)}
        backwards = dict(reversed(hypotheses.items()))
        assert score(references, hypotheses) == score(references, backwards)

    def test_empty_texts_are_counted(self) -> None:
        report = score({"a": "two words", "b": "", "c": ""}, {"a": "", "b": "noise", "c": ""})
        assert (report.substitutions, report.insertions, report.deletions) == (0, 1, 2)
        assert report.wer == 1.5
        assert report.character_errors == 9 + 5
        assert report.sentence_errors == 2

    def test_without_reference_words_the_rate_is_the_number_of_insertions(self) -> None:
        silent = score({"a": "", "b": ""}, {"a": "", "b": ""})
        assert (silent.wer, silent.cer, silent.sentence_error_rate) == (0.0, 0.0, 0.0)
        babble = score({"a": "", "b": ""}, {"a": "hm hm", "b": "oh"})
        assert (babble.wer, babble.cer, babble.sentence_error_rate) == (3.0, 7.0, 1.0)

    def test_white_space_and_case_do_not_count(self) -> None:
        assert score({"a": " THE\u00a0 Cat\n"}, {"a": "the cat"}).errors == 0

    def test_profile_applies_to_both_sides(self) -> None:
        references = {"a": "“Don’t!” — she said, café…"}
        hypotheses = {"a": "DON'T she said: cafe"}
        assert score(references, hypotheses).errors > 0
        report = score(references, hypotheses, profile="english")
        assert report.errors == report.character_errors == 0
        assert report.utterances[0].reference == "don't she said cafe"


class TestViews:
    report = score(
        {"bad": "the cat sat on the mat", "worse": "one two three four", "good": "fine"},
        {"bad": "the bat sat on mat", "worse": "the bat", "good": "fine"},
    )

    def test_confusions_are_ranked(self) -> None:
        report = score(
            {"1": "a b a c", "2": "a d"},
            {"1": "x b x", "2": "x d e"},
        )
        assert report.confusions() == [("a", "x", 3), ("", "e", 1), ("c", "", 1)]
        assert report.confusions(1) == [("a", "x", 3)]

    def test_worst_utterances_come_first_and_correct_ones_are_left_out(self) -> None:
        assert [utterance.id for utterance in self.report.worst()] == ["worse", "bad"]
        assert [utterance.id for utterance in self.report.worst(1)] == ["worse"]

    def test_alignment_shows_word_under_word(self) -> None:
        assert self.report.alignment().split("\n\n")[1] == "\n".join(
            [
                "bad: S 1, I 0, D 1 of 6 words",
                "  REF the cat sat on the mat",
                "  HYP the bat sat on *** mat",
                "          S          D",
            ]
        )
        assert score({"a": "b"}, {"a": "b"}).alignment() == ""

    def test_long_alignments_are_folded(self) -> None:
        long = " ".join(f"word{i}" for i in range(60)) + " " + "x" * 200
        view = score({"a": long}, {"a": f"extra {long}"}).alignment()
        lines = view.splitlines()
        assert len(lines) > 4
        assert lines[1].startswith("  REF *****")
        assert all(len(line) <= LINE_WIDTH or "x" * 200 in line for line in lines)
        shown = " ".join(line.removeprefix("  HYP ") for line in lines if line.startswith("  HYP"))
        assert shown.split() == ["extra", *long.split()]

    def test_summary_is_one_line(self) -> None:
        assert self.report.summary() == (
            "WER 54.55 % (S 3, I 0, D 3 of 11 words), CER 43.18 %, sentence errors 66.67 % (2 of 3)"
        )

    def test_to_dict_is_json(self) -> None:
        data = json.loads(json.dumps(self.report.to_dict(), allow_nan=False))
        assert data["wer"] == self.report.wer
        assert data["errors"] == data["substitutions"] + data["insertions"] + data["deletions"]
        assert [utterance["id"] for utterance in data["utterances"]] == ["bad", "worse", "good"]
        assert data["utterances"][0]["deletions"] == 1
        assert {"reference": "cat", "hypothesis": "bat", "count": 1} in data["confusions"]


class TestBadInput:
    def test_at_most_five_unmatched_ids_are_listed(self) -> None:
        references = {f"r{i}": "a" for i in range(7)} | {"both": "a"}
        with pytest.raises(ScoreError) as error:
            score(references, {"both": "a", "h1": "b"})
        message = str(error.value)
        assert "7 only in the references ('r0', 'r1', 'r2', 'r3', 'r4', ...)" in message
        assert "1 only in the hypotheses ('h1')" in message

    def test_long_ids_are_cut(self) -> None:
        with pytest.raises(ScoreError) as error:
            score({"r" * 50_000: "a"}, {"h": "a"})
        assert "'rrr" in str(error.value)
        assert len(str(error.value)) < 500

    def test_ids_missing_on_one_side_name_that_side_only(self) -> None:
        with pytest.raises(ScoreError) as error:
            score({"a": "a", "b": "b"}, {"a": "a"})
        assert "1 only in the references ('b')" in str(error.value)
        assert "only in the hypotheses" not in str(error.value)

    def test_no_utterance_raises_an_error(self) -> None:
        with pytest.raises(ScoreError, match="no utterance to score"):
            score({}, {})

    def test_unknown_profile_raises_an_error(self) -> None:
        with pytest.raises(TextError, match="'fancy'"):
            score({"a": "a"}, {"a": "a"}, profile="fancy")


def wrong_every(step: int, count: int = 400) -> dict[str, str]:
    """Utterances of one word, which is wrong in every `step`th utterance."""
    return {str(i): "no" if i % step == 0 else "yes" for i in range(count)}


class TestIntervals:
    references = wrong_every(401) | {"0": "yes"}

    def test_interval_is_as_wide_as_the_binomial_one(self) -> None:
        report = score(self.references, wrong_every(10))
        deviation = np.sqrt(0.1 * 0.9 / 400)
        low, high = report.wer_interval()
        assert low == pytest.approx(0.1 - 1.96 * deviation, abs=0.004)
        assert high == pytest.approx(0.1 + 1.96 * deviation, abs=0.004)
        assert report.wer_interval() == (low, high), "the same each time"
        assert score(self.references, self.references).wer_interval() == (0, 0)

    def test_longer_utterances_count_for_more(self) -> None:
        """If all errors are in one utterance, the number of times it is drawn decides."""
        references = {"long": " ".join("abcdefghij"), "a": "a", "b": "b"}
        low, high = score(references, references | {"long": ""}).wer_interval()
        assert low == 0
        assert high == 1
        assert score({"a": "", "b": ""}, {"a": "oh", "b": "oh"}).wer_interval() == (2, 2)

    def test_difference_is_of_paired_utterances(self) -> None:
        some = score(self.references, wrong_every(10))
        more = score(self.references, wrong_every(5))
        assert compare_wer(some, some) == (0, 0, 0)
        difference, low, high = compare_wer(more, some)
        assert difference == pytest.approx(0.1)
        deviation = np.sqrt(0.1 * 0.9 / 400)
        assert (low, high) == pytest.approx(
            (0.1 - 1.96 * deviation, 0.1 + 1.96 * deviation), abs=0.004
        )

    def test_reports_of_other_utterances_cannot_be_compared(self) -> None:
        one = score(self.references, self.references)
        for others in ({"0": "yes"}, {f"u{id}": text for id, text in self.references.items()}):
            with pytest.raises(ScoreError, match="do not cover the same utterances"):
                compare_wer(one, score(others, others))


def test_only_scoring_imports_jiwer() -> None:
    package = ROOT / "asr"
    importers = [path.name for path in package.glob("*.py") if "import jiwer" in path.read_text()]
    assert importers == ["scoring.py"]
