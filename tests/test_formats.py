"""Transcripts as files: what a reader of each format finds in them."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoder.hypothesis import Hypothesis, Word
from asr.formats import to_ctm, to_json, to_srt, to_textgrid, to_txt, to_vtt


def make_hypothesis(*words: tuple[str, float, float]) -> Hypothesis:
    found = tuple(Word(text, start, end, 0.87654) for text, start, end in words)
    return Hypothesis(" ".join(word.text for word in found), found, 0.5, -1.0)


@st.composite
def hypotheses(draw: st.DrawFn) -> Hypothesis:
    """Words in order, each of a frame or more, some of them without a gap between."""
    seconds = draw(st.sampled_from([0.04, 0.02, 1 / 30]))
    frame = 0
    words = []
    for text in draw(st.lists(st.text("ab'\"é<&", min_size=1, max_size=20), max_size=12)):
        start = frame + draw(st.integers(0, 40))
        frame = start + draw(st.integers(1, 20))
        words.append((text, start * seconds, frame * seconds))
    return make_hypothesis(*words)


def read_textgrid(document: str) -> dict[str, Any]:
    """The one interval tier of a TextGrid in the long format."""
    head, *intervals = re.split(r"\n {8}intervals \[\d+\]:\n", document)
    fields = dict(re.findall(r"^ *([\w: ]+?) = (.*)$", head, re.M))
    found = []
    for interval in intervals:
        start, end, text = re.fullmatch(
            r' {12}xmin = ([\d.]+)\n {12}xmax = ([\d.]+)\n {12}text = "((?:[^"]|"")*)"\n?', interval
        ).groups()
        found.append((float(start), float(end), text.replace('""', '"')))
    assert int(fields["intervals: size"]) == len(found)
    return {"xmax": float(fields["xmax"]), "fields": fields, "intervals": found}


def test_txt_is_the_text() -> None:
    assert to_txt(make_hypothesis(("well", 0, 1), ("said", 1, 2))) == "well said\n"
    assert to_txt(make_hypothesis()) == "\n"


def test_json_is_one_line_with_path_and_seconds() -> None:
    hypothesis = make_hypothesis(("ça", 0.04, 0.12))
    document = to_json(hypothesis, "x/é.wav", 1.23456)
    assert document.count("\n") == 1
    assert "é.wav" in document
    assert json.loads(document) == {"path": "x/é.wav", "seconds": 1.235, **hypothesis.to_dict()}


class TestSubtitles:
    @given(hypotheses())
    def test_hold_every_word_once_and_in_time(self, hypothesis: Hypothesis) -> None:
        blocks = to_srt(hypothesis).split("\n\n") if hypothesis.words else []
        words = []
        for number, block in enumerate(blocks, start=1):
            counter, times, text = block.removesuffix("\n").split("\n")
            assert int(counter) == number
            assert len(text) <= 42
            cue = hypothesis.words[len(words) : len(words) + len(text.split())]
            words += text.split()
            moments = [
                int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000
                for h, m, s, ms in re.findall(r"(\d\d):(\d\d):(\d\d),(\d{3})", times)
            ]
            assert moments == pytest.approx([cue[0].start, cue[-1].end], abs=0.0006)
            for word, following in pairwise(cue):
                assert following.start - word.end < 1.001
        assert words == [word.text for word in hypothesis.words]

    @pytest.mark.parametrize(("letters", "cues"), [(20, 1), (21, 2)])
    def test_a_line_holds_42_characters(self, letters: int, cues: int) -> None:
        hypothesis = make_hypothesis(("a" * 21, 0, 1), ("b" * letters, 1, 2))
        assert to_srt(hypothesis).count("-->") == cues

    def test_a_pause_of_a_second_is_measured_without_rounding_errors(self) -> None:
        words = [("on", 1.24 * number, 1.24 * number + 0.24) for number in (12, 13)]
        assert words[1][1] - words[0][2] > 1
        assert to_srt(make_hypothesis(*words)).count("-->") == 1

    @given(hypotheses())
    def test_vtt_has_the_cues_of_srt_escaped(self, hypothesis: Hypothesis) -> None:
        head, *cues = to_vtt(hypothesis).removesuffix("\n").split("\n\n")
        assert head == "WEBVTT"
        plain = to_srt(hypothesis).removesuffix("\n").split("\n\n") if hypothesis.words else []
        for cue, block in zip(cues, plain, strict=True):
            times, text = cue.split("\n")
            assert "<" not in text
            text = text.replace("&lt;", "<").replace("&amp;", "&")
            assert [times.replace(".", ","), text] == block.split("\n")[1:]


class TestCtm:
    def test_a_line_for_each_word(self) -> None:
        hypothesis = make_hypothesis(("well", 0.04, 0.4), ("said", 3661.5, 3662))
        assert to_ctm(hypothesis, "calls/take.2.wav") == (
            "take.2 1 0.040 0.360 well 0.8765\ntake.2 1 3661.500 0.500 said 0.8765\n"
        )
        assert to_ctm(make_hypothesis(), "x.wav") == ""

    def test_white_space_in_a_name_does_not_separate_fields(self) -> None:
        (line,) = to_ctm(make_hypothesis(("a", 0, 1)), "my calls/call\tno  1.wav").splitlines()
        assert line.split() == ["call_no__1", "1", "0.000", "1.000", "a", "0.8765"]

    @given(hypotheses())
    def test_words_never_overlap_by_rounding(self, hypothesis: Hypothesis) -> None:
        rows = [line.split() for line in to_ctm(hypothesis, "x.wav").splitlines()]
        assert [row[4] for row in rows] == [word.text for word in hypothesis.words]
        reached = 0
        for row, word in zip(rows, hypothesis.words, strict=True):
            start, duration = (round(float(field) * 1000) for field in row[2:4])
            assert start >= reached
            reached = start + duration
            assert reached / 1000 == pytest.approx(word.end, abs=0.0006)


class TestTextGrid:
    def test_the_long_format_by_hand(self) -> None:
        assert to_textgrid(make_hypothesis(('say"', 0.04, 0.4)), 1.5) == (
            'File type = "ooTextFile"\n'
            'Object class = "TextGrid"\n'
            "\n"
            "xmin = 0\n"
            "xmax = 1.500\n"
            "tiers? <exists>\n"
            "size = 1\n"
            "item []:\n"
            "    item [1]:\n"
            '        class = "IntervalTier"\n'
            '        name = "words"\n'
            "        xmin = 0\n"
            "        xmax = 1.500\n"
            "        intervals: size = 3\n"
            "        intervals [1]:\n"
            "            xmin = 0.000\n"
            "            xmax = 0.040\n"
            '            text = ""\n'
            "        intervals [2]:\n"
            "            xmin = 0.040\n"
            "            xmax = 0.400\n"
            '            text = "say"""\n'
            "        intervals [3]:\n"
            "            xmin = 0.400\n"
            "            xmax = 1.500\n"
            '            text = ""\n'
        )

    @given(hypotheses(), st.floats(0, 1))
    def test_intervals_cover_the_recording_without_a_gap(
        self, hypothesis: Hypothesis, silence: float
    ) -> None:
        seconds = (hypothesis.words[-1].end if hypothesis.words else 0) + silence
        grid = read_textgrid(to_textgrid(hypothesis, seconds))
        intervals = grid["intervals"]
        assert (grid["fields"]["name"], grid["fields"]["class"]) == ('"words"', '"IntervalTier"')
        assert grid["xmax"] == pytest.approx(seconds, abs=0.0006)
        assert intervals[0][0] == 0
        assert intervals[-1][1] == grid["xmax"]
        assert all(one[1] == two[0] for one, two in pairwise(intervals))
        if seconds > 0.001:
            assert all(start < end for start, end, _ in intervals)
        words = [interval for interval in intervals if interval[2]]
        assert [text for _, _, text in words] == [word.text for word in hypothesis.words]
        for (start, end, _), word in zip(words, hypothesis.words, strict=True):
            assert (start, end) == pytest.approx((word.start, word.end), abs=0.0006)

    def test_silence_is_one_empty_interval(self) -> None:
        assert read_textgrid(to_textgrid(make_hypothesis(), 2.5))["intervals"] == [(0, 2.5, "")]

    def test_a_last_frame_that_reaches_further_is_cut_at_the_end(self) -> None:
        grid = read_textgrid(to_textgrid(make_hypothesis(("a", 0, 0.5), ("b", 0.5, 1.52)), 1.505))
        assert grid["xmax"] == 1.505
        assert grid["intervals"] == [(0, 0.5, "a"), (0.5, 1.505, "b")]

    def test_a_word_after_the_stated_end_is_not_lost(self) -> None:
        grid = read_textgrid(to_textgrid(make_hypothesis(("a", 0, 1), ("b", 1.52, 1.56)), 1.505))
        assert grid["xmax"] == 1.56
        assert grid["intervals"] == [(0, 1, "a"), (1, 1.52, ""), (1.52, 1.56, "b")]
