"""Transcripts as files of the usual formats: plain text, JSON, subtitles, CTM, Praat's TextGrid.

Every function returns the content of a file. `name` is the path of the recording, `seconds` its
duration.
"""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from asr.decoder.hypothesis import Hypothesis, Word

CUE_CHARACTERS = 42  # length of a subtitle's line
CUE_PAUSE_MS = 1000  # a longer silence starts a new subtitle


def to_txt(hypothesis: Hypothesis) -> str:
    """The text alone, on one line."""
    return f"{hypothesis.text}\n"


def to_json(hypothesis: Hypothesis, name: str, seconds: float) -> str:
    """One line of JSON: path and duration of the recording, and the fields of the hypothesis."""
    record = {"path": name, "seconds": round(seconds, 3), **hypothesis.to_dict()}
    return json.dumps(record, ensure_ascii=False) + "\n"


def segment_record(hypothesis: Hypothesis) -> dict[str, Any]:
    """A line of `asr stream`: a segment that has ended."""
    return {"segment": True, **hypothesis.to_dict()}


def final_record(hypothesis: Hypothesis) -> dict[str, Any]:
    """The last line of `asr stream`."""
    return {"final": True, **hypothesis.to_dict()}


def to_srt(hypothesis: Hypothesis) -> str:
    """SubRip subtitles: a new one starts at a long pause or if the line is full."""
    cues = enumerate(_cut_cues(hypothesis.words), start=1)
    return "\n".join(f"{number}\n{_span(cue, ',')}\n{_text(cue)}\n" for number, cue in cues)


def to_vtt(hypothesis: Hypothesis) -> str:
    """WebVTT subtitles, divided like those of `to_srt`."""
    cues = _cut_cues(hypothesis.words)
    blocks = [f"{_span(cue, '.')}\n{escape(_text(cue), quote=False)}\n" for cue in cues]
    return "\n".join(["WEBVTT\n", *blocks])


def to_ctm(hypothesis: Hypothesis, name: str) -> str:
    """NIST's time-marked words, one per line: `recording channel start duration word confidence`.

    The recording is called by its file name without the ending; white space in it becomes `_`.
    """
    recording = re.sub(r"\s", "_", PurePath(name).stem)
    lines = []
    for word in hypothesis.words:
        start, end = _milliseconds(word.start), _milliseconds(word.end)
        times = f"{_decimal(start)} {_decimal(end - start)}"
        lines.append(f"{recording} 1 {times} {word.text} {word.confidence:.4f}\n")
    return "".join(lines)


def to_textgrid(hypothesis: Hypothesis, seconds: float) -> str:
    """Praat's long text format: an interval tier "words" over the whole recording.

    Praat requires intervals without gaps, so a silence is an interval with empty text.
    """
    intervals = _fill_gaps(hypothesis.words, _milliseconds(seconds))
    bounds = ["xmin = 0", f"xmax = {_decimal(intervals[-1][1])}"]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *bounds]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:"]
    tier = ['class = "IntervalTier"', 'name = "words"', *bounds]
    lines += [f"        {line}" for line in [*tier, f"intervals: size = {len(intervals)}"]]
    for number, (start, end, text) in enumerate(intervals, start=1):
        quoted = text.replace('"', '""')
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {_decimal(start)}",
            f"            xmax = {_decimal(end)}",
            f'            text = "{quoted}"',
        ]
    return "\n".join(lines) + "\n"


def _cut_cues(words: Sequence[Word]) -> list[list[Word]]:
    """Divide the words into subtitles: lines that fit, broken at long pauses."""
    cues: list[list[Word]] = []
    for word in words:
        if (
            not cues
            or _milliseconds(word.start) - _milliseconds(cues[-1][-1].end) > CUE_PAUSE_MS
            or len(_text([*cues[-1], word])) > CUE_CHARACTERS
        ):
            cues.append([])
        cues[-1].append(word)
    return cues


def _text(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)


def _span(cue: Sequence[Word], point: str) -> str:
    return f"{_clock(cue[0].start, point)} --> {_clock(cue[-1].end, point)}"


def _clock(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(_milliseconds(seconds), 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _fill_gaps(words: Sequence[Word], limit: int) -> list[tuple[int, int, str]]:
    """Intervals (start, end, text) in milliseconds, without gaps from 0 to `limit`.

    A word that reaches beyond the limit is cut there, because the model's last frame may extend
    beyond the recording. A word that begins later (a header may state 50 ms less than there are
    samples) is kept whole and makes the tier longer.
    """
    intervals = []
    reached = 0
    for word in words:
        start, end = _milliseconds(word.start), _milliseconds(word.end)
        if start < limit < end:
            end = limit
        if start > reached:
            intervals.append((reached, start, ""))
        intervals.append((start, end, word.text))
        reached = end
    if reached < limit or not intervals:
        intervals.append((reached, limit, ""))
    return intervals


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _decimal(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"
