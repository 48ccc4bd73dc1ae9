"""Manifests that hold unusable lines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from voices import Corpus, named

from asr.data.manifest import Reject, read_manifest
from asr.doctor.examination import examine
from asr.doctor.findings import ERROR
from asr.doctor.manifests import read_leniently, select_clean
from asr.errors import DataError

LINE = {"id": "u", "audio_filepath": "a.wav", "duration": 1.0, "text": "words"}
BROKEN = {
    "no JSON": "{",
    "no object": "[1]",
    "no audio": json.dumps({**LINE, "audio_filepath": ""}),
    "key missing": json.dumps({"id": "u"}),
    "negative": json.dumps({**LINE, "duration": -1}),
    "not a number": json.dumps({**LINE, "duration": "long"}),
    "no text": json.dumps({**LINE, "text": 5}),
    "offset": json.dumps({**LINE, "offset": 2.0}),
    "offset, empty": json.dumps({**LINE, "offset": 2.0, "text": ""}),
    "same id": json.dumps({**LINE, "id": "good"}),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_an_unusable_line_is_named_and_the_others_are_read(line: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps({**LINE, 'id': 'good'})}\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_manifest(path)
    utterances, refused = read_leniently(path)
    assert [u.id for u in utterances] == ["good"]
    assert [reject.id for reject in refused] == ["line 2"]
    diagnosis = examine({"m": utterances[:0]}, refused={"m": [Reject("line 2", "line", "?")]})
    assert named(diagnosis) == {("line", "m"): {"line 2"}}


def test_an_empty_text_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**LINE, "text": " "}) + "\n")
    utterances, refused = read_leniently(path)
    assert (utterances[0].text, refused) == (" ", [])
    path.write_text("\n")
    with pytest.raises(DataError, match="contains no utterances"):
        read_leniently(path)


def test_lines_with_lone_surrogates_are_unusable(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"id": "good\\ud800", "audio_filepath": "a.wav", "duration": 1, "text": "x"}\n'
    )
    utterances, [reject] = read_leniently(path)
    assert utterances == []
    assert '"id" contains a lone surrogate' in reject.detail


def test_an_utterance_named_like_a_line_is_not_confused_with_it(healthy: Corpus) -> None:
    utterances = [replace(healthy.utterances[0], id="line 2"), *healthy.utterances[1:]]
    refused = {"train": [Reject("line 2", "line", "line 2 is not JSON")]}
    diagnosis = examine({"train": utterances}, refused=refused)
    assert select_clean(utterances, diagnosis, "train") == utterances
    numbered = [replace(utterances[0], text="9 lives"), *utterances[1:]]
    assert examine({"train": numbered}, refused=refused).count(ERROR) == 2
