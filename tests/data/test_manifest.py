"""Manifests: what is written is read back, and errors name the line."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from files import write_text, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.manifest import Reject, Utterance, read_manifest, summarize_rejects, write_manifest
from asr.errors import DataError, FileError

GOOD = {"audio_filepath": "a.wav", "duration": 1.5, "text": "one"}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(
        st.tuples(
            WORDS,
            WORDS.filter(str.strip),
            st.floats(1e-3, 1e5),
            st.sampled_from(["here/x y.wav", "../there/é.flac", "{folder}/z.mp3", "/far/z.mp3"]),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        min_size=1,
        unique_by=lambda row: row[0],
    )
)
@settings(deadline=None, max_examples=50)
def test_a_written_manifest_reads_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    utterances = [
        Utterance(name, os.path.abspath(folder / audio.format(folder=folder)), seconds, text, who)
        for name, text, seconds, audio, who in rows
    ]
    write_manifest(folder / "train.jsonl", utterances)
    assert read_manifest(folder / "train.jsonl") == utterances
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]


def test_a_manifest_moves_with_its_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav(tmp_path / "corpus" / "audio" / "x.wav")
    monkeypatch.chdir(tmp_path)
    write_manifest("corpus/train.jsonl", [Utterance("x", "corpus/audio/x.wav", 0.2, "one")])
    (tmp_path / "corpus").rename(tmp_path / "moved")
    (utterance,) = read_manifest(tmp_path / "moved" / "train.jsonl")
    assert utterance.audio == str(tmp_path / "moved" / "audio" / "x.wav")


def test_nemo_manifests_are_read(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": "wav/a.b.wav", "duration": 2, "text": "One, two", "lang": "en"},
        {**GOOD, "audio_filepath": "/data/c.flac", "offset": 0.0, "speaker": 17},
        {**GOOD, "id": "u3", "speaker": "anna", "offset": None},
    ]
    path = tmp_path / "nemo.json"
    text = "\r\n\r\n".join(json.dumps(line) for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")  # as Windows writes it
    assert read_manifest(path) == [
        Utterance("a.b", str(tmp_path / "wav/a.b.wav"), 2.0, "One, two", ""),
        Utterance("c", "/data/c.flac", 1.5, "one", "17"),
        Utterance("u3", str(tmp_path / "a.wav"), 1.5, "one", "anna"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ('{"duration": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"duration": 1.0, "text": "x"}, 'line 2 has no "audio_filepath"'),
        ({**GOOD, "audio_filepath": 3}, 'line 2: "audio_filepath" is 3; it must be a string'),
        ({**GOOD, "audio_filepath": ""}, "line 2 (utterance ''): \"audio_filepath\" is ''"),
        ({**GOOD, "id": 3}, 'line 2: "id" is 3; it must be a string'),
        ({"audio_filepath": "b.wav", "text": "x"}, "line 2 (utterance 'b') has no \"duration\""),
        ({**GOOD, "duration": "1.5"}, "(utterance 'a'): \"duration\" is '1.5'; it must be a numb"),
        ({**GOOD, "duration": True}, '"duration" is True; it must be a number'),
        ({**GOOD, "duration": None}, '"duration" is None; it must be a number'),
        ({**GOOD, "duration": 0}, '"duration" is 0; it must be the length in seconds, above 0'),
        ({**GOOD, "duration": -2.5}, '"duration" is -2.5'),
        ({**GOOD, "duration": math.nan}, '"duration" is nan'),
        ({**GOOD, "duration": math.inf}, '"duration" is inf'),
        ({**GOOD, "duration": 10**400}, '"duration" is 1000'),
        (
            {"audio_filepath": "a.wav", "duration": 1.0, "id": "u"},
            "(utterance 'u') has no \"text\"",
        ),
        ({**GOOD, "text": 7}, '"text" is 7; it must be a string'),
        ({**GOOD, "text": " \t"}, "line 2 (utterance 'a'): \"text\" is empty"),
        ({**GOOD, "offset": 1.5}, '"offset" is 1.5, but only whole recordings can be read'),
        ({**GOOD, "text": ["x" * 50_000]}, "is ['xxx"),
        ({**GOOD, "id": "x" * 50_000, "text": 7}, 'xxx...\'): "text" is 7'),
        ({**GOOD, "audio_filepath": "x" * 50_000}, "has 50,000 characters, more than any path"),
        ({**GOOD, "speaker": ["x"]}, "\"speaker\" is ['x']; it must be a string"),
        ({**GOOD, "id": "first"}, "line 2: the id 'first' is already used on line 1"),
    ],
)
def test_errors_name_the_line_and_the_problem(
    tmp_path: Path, line: str | dict[str, object], sentence: str
) -> None:
    path = tmp_path / "m.jsonl"
    second = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps({**GOOD, "id": "first"}) + "\n" + second + "\n")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2")
    assert sentence in message
    assert "; " in message
    assert not message.endswith(".")
    assert "\n" not in message
    assert len(message) < 1_000


def test_unreadable_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read \(No such file"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory"):
        read_manifest(tmp_path)
    empty = write_text(tmp_path / "empty.jsonl", "\n \n")
    with pytest.raises(DataError, match=r"empty\.jsonl contains no utterance"):
        read_manifest(empty)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl, line 2 is not UTF-8 text"):
        read_manifest(latin)


def test_a_manifest_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.jsonl"
    write_manifest(path, [Utterance("a", "a.wav", 1.0, "one")])
    before = path.read_bytes()

    def break_off() -> Iterator[Utterance]:
        yield Utterance("b", "b.wav", 1.0, "two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, break_off())
    with pytest.raises(DataError, match=r"a name in it, '.*\\udce9.*rename the file"):
        write_manifest(path, [Utterance("x", os.fsdecode(b"/a/\xe9.wav"), 1.0, "one")])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileError, match=r"m\.jsonl/below/m\.jsonl could not be written"):
        write_manifest(path / "below" / "m.jsonl", [])


def test_summarize_rejects() -> None:
    rejects = [Reject(f"u{i}", "too long", f"{i} s") for i in range(5)]
    rejects.insert(2, Reject("x", "empty text"))
    assert summarize_rejects(rejects) == (
        "5 left out, too long: u0 (0 s), u1 (1 s), u2 (2 s), ...\n1 left out, empty text: x"
    )
    assert summarize_rejects([]) == ""
