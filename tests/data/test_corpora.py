"""Readers of corpora: what they find, what they reject, and which errors they raise."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from files import write_text, write_wav

from asr.data.corpora import read_common_voice, read_folder, read_kaldi, read_librispeech
from asr.data.manifest import Reject, Utterance
from asr.errors import DataError, TextError


def by_id(rejects: list[Reject]) -> dict[str, str]:
    assert len({reject.id for reject in rejects}) == len(rejects)
    return {reject.id: reject.reason for reject in rejects}


def test_read_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "dev" / "84" / "121"
    for name in ("84-121-0000.wav", "84-121-0001.flac", "84-121-0004.wav", "84-121-0005.wav"):
        write_wav(chapter / name, 0.25)
    write_wav(chapter / "84-121-0005.flac")
    write_wav(tmp_path / "dev" / "85" / "85-1-0000.wav")
    write_text(chapter / "84-121-0003.wav", "not audio")
    lines = ["0000 GO  ON\tNOW", "0001 Yes", "0002 GONE", "0003 X", "0004  ", "0005 TWO", "0000 NO"]
    write_text(chapter / "84-121.trans.txt", "".join(f"84-121-{line}\n" for line in lines))
    (chapter / "._84-121.trans.txt").write_bytes(b"\xff\xfe")  # macOS metadata

    utterances, rejects = read_librispeech(tmp_path)
    assert utterances == [
        Utterance("84-121-0000", str(chapter / "84-121-0000.wav"), 0.25, "go on now", "84"),
        Utterance("84-121-0001", str(chapter / "84-121-0001.flac"), 0.25, "yes", "84"),
    ]
    assert Counter((reject.id, reject.reason) for reject in rejects) == Counter(
        [
            ("84-121-0002", "audio missing"),
            ("84-121-0003", "audio unreadable"),
            ("84-121-0004", "empty text"),
            ("84-121-0005", "several recordings"),
            ("84-121-0000", "id occurs twice"),
            ("85-1-0000", "transcript missing"),
        ]
    )
    details = {reject.id: reject.detail for reject in rejects}
    assert details["84-121-0005"] == "84-121-0005.flac, 84-121-0005.wav"
    assert "84-121-0003.wav" in details["84-121-0003"]

    with pytest.raises(DataError, match=r"85 contains no transcript \*\.trans\.txt"):
        read_librispeech(tmp_path / "dev" / "85")
    with pytest.raises(DataError, match="none is not a folder"):
        read_librispeech(tmp_path / "none")
    with pytest.raises(TextError, match="profile"):
        read_librispeech(tmp_path, profile="plane")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "a", "a\0b", "\x1b[31m"])
def test_names_that_no_file_can_have_are_missing_audio(tmp_path: Path, name: str) -> None:
    write_wav(tmp_path / "clips" / "a.wav", 0.25)
    tsv = write_text(tmp_path / "t.tsv", f"path\tsentence\na.wav\tyes\n{name}.wav\tno\n")
    utterances, rejects = read_common_voice(tsv)
    assert len(utterances) == 1
    assert by_id(rejects) == {name: "audio missing"}
    write_text(tmp_path / "wav.scp", f"u {tmp_path / 'clips' / 'a.wav'}\nv {name}.wav\n")
    write_text(tmp_path / "text", "u yes\nv no\n")
    utterances, rejects = read_kaldi(tmp_path)
    assert len(utterances) == 1
    assert by_id(rejects) == {"v": "audio missing"}


def test_read_common_voice(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_wav(tmp_path / "clips" / f"{name}.wav", 0.25)
    rows = [
        "client_id\tpath\tsentence\tage",
        's1\ta.wav\t"Hello," he said\t',  # this quotation mark does not follow the rules of csv
        's2\tb.wav\tShe said "hi\t30',
        "s3\tc.wav\t?!\t",
        "s4\tgone.wav\tGone.\t",
        "s5",
        "s1\ta.wav\tAgain.\t",
    ]
    tsv = write_text(tmp_path / "train.tsv", "\n".join(rows) + "\n")
    utterances, rejects = read_common_voice(tsv)
    assert utterances == [
        Utterance("a", str(tmp_path / "clips" / "a.wav"), 0.25, "hello he said", "s1"),
        Utterance("b", str(tmp_path / "clips" / "b.wav"), 0.25, "she said hi", "s2"),
    ]
    assert by_id(rejects) == {
        "c": "empty text",
        "gone": "audio missing",
        "line 6": "columns missing",
        "a": "id occurs twice",
    }

    with pytest.raises(DataError, match=r"does not begin with the names of the columns"):
        read_common_voice(write_text(tmp_path / "bad.tsv", "a.wav\thello\n"))
    with pytest.raises(DataError, match=r"none\.tsv cannot be read"):
        read_common_voice(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="clips is not a folder"):
        read_common_voice(write_text(tmp_path / "elsewhere" / "t.tsv", "path\tsentence\n"))


def test_read_kaldi(tmp_path: Path) -> None:
    write_wav(tmp_path / "wav" / "a b.wav", 0.25)
    far = write_wav(tmp_path / "far" / "c.wav", 0.25)
    folder = tmp_path / "data"
    scp = write_text(
        folder / "wav.scp",
        f"u1 ../wav/a b.wav\nu2\t{far}\nu3 sph2pipe x.sph |\nu4 gone.wav\nu5 {far}\nu6 {far}\n",
    )
    write_text(folder / "text", "u1 ZERO  ONE\nu2 Two\nu3 X\nu4 X\nu5\nu7 X\n")
    write_text(folder / "utt2spk", "u1 anna\nu2 bert\n")
    utterances, rejects = read_kaldi(folder)
    assert utterances == [
        Utterance("u1", str(folder / "../wav/a b.wav"), 0.25, "zero one", "anna"),
        Utterance("u2", str(far), 0.25, "two", "bert"),
    ]
    assert by_id(rejects) == {
        "u3": "audio is a command",
        "u4": "audio missing",
        "u5": "empty text",
        "u6": "transcript missing",
        "u7": "audio missing",
    }

    (folder / "utt2spk").unlink()
    assert [utterance.speaker for utterance in read_kaldi(folder)[0]] == ["", ""]
    scp.write_text("u1 a.wav\nu1 b.wav\n")
    with pytest.raises(DataError, match=r"wav\.scp, line 2: 'u1' is listed twice"):
        read_kaldi(folder)
    scp.unlink()
    with pytest.raises(DataError, match=r"wav\.scp cannot be read"):
        read_kaldi(folder)
    write_text(folder / "segments", "u1 a 0 1\n")
    with pytest.raises(DataError, match="segments cuts utterances out of longer recordings"):
        read_kaldi(folder)


def test_read_folder(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", 0.25)
    write_wav(tmp_path / "anna" / "x.wav", 0.25)
    write_wav(tmp_path / "anna" / "y.1.wav")
    write_text(tmp_path / "x.txt", "Turn\nLEFT\n")
    write_text(tmp_path / "anna" / "x.txt", "Right")
    write_text(tmp_path / "README.txt", "About this corpus")
    utterances, rejects = read_folder(tmp_path)
    assert sorted(utterances, key=lambda utterance: utterance.id) == [
        Utterance("anna/x", str(tmp_path / "anna" / "x.wav"), 0.25, "right", "anna"),
        Utterance("x", str(tmp_path / "x.wav"), 0.25, "turn left"),
    ]
    assert by_id(rejects) == {"README": "audio missing", "anna/y.1": "transcript missing"}

    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none contains no recording"):
        read_folder(tmp_path / "none")
    (tmp_path / "x.txt").write_bytes(b"\xe9")
    utterances, rejects = read_folder(tmp_path)
    assert [utterance.id for utterance in utterances] == ["anna/x"]
    assert by_id(rejects)["x"] == "transcript unreadable"
    assert any("x.txt, line 1 is not UTF-8" in reject.detail for reject in rejects)


def test_names_match_however_they_are_encoded(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "épée") for form in ("NFC", "NFD"))
    folder = tmp_path / unicodedata.normalize("NFD", "été")
    write_wav(folder / f"{decomposed}.wav", 0.25)
    write_text(folder / f"{composed}.TXT", "Bonjour")
    write_wav(folder / "b" / f"{composed}.WAV", 0.25)
    write_text(folder / "b" / f"{decomposed}.Txt", "Salut")
    for speaker, name in (("c", composed), ("c", decomposed)):
        write_wav(folder / speaker / f"{name}.wav", 0.25)
    write_text(folder / "c" / f"{composed}.txt", "Merci")
    utterances, rejects = read_folder(folder)
    assert {utterance.id: utterance.text for utterance in utterances} == {
        composed: "bonjour",
        f"b/{composed}": "salut",
    }
    assert all(Path(utterance.audio).exists() for utterance in utterances)
    assert by_id(rejects) == {f"c/{composed}": "several recordings"}


@pytest.mark.parametrize(
    ("read", "corpus", "utterances", "speakers", "hours"),
    [
        (read_librispeech, "LibriSpeech/dev-mini", 115, 2, 0.27),
        (read_common_voice, "CommonVoice/en/dev.tsv", 117, 35, 0.18),
        (read_kaldi, "speechocean762/dev", 160, 8, 0.19),
    ],
)
def test_real_corpora_are_read_completely(
    shared: Path,
    read: Callable[[Path], tuple[list[Utterance], list[Reject]]],
    corpus: str,
    utterances: int,
    speakers: int,
    hours: float,
) -> None:
    found, rejects = read(shared / corpus)
    assert (len(found), rejects) == (utterances, [])
    assert len({utterance.speaker for utterance in found}) == speakers
    assert round(sum(utterance.seconds for utterance in found) / 3600, 2) == hours
