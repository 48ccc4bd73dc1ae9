"""Readers of corpora: LibriSpeech, Common Voice, Kaldi folders, and folders of recordings."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from asr.audio.waveform import find_audio, inspect_audio
from asr.data.manifest import Reject, Utterance
from asr.errors import AudioError, DataError, quote
from asr.files import FilePath, read_lines, walk_files
from asr.text import count_changes, normalize


def read_librispeech(
    folder: FilePath, profile: str = "plain", changes: Counter[str] | None = None
) -> tuple[list[Utterance], list[Reject]]:
    """Read a corpus in LibriSpeech's layout, at any depth below `folder`, with any audio format.

    Each speaker/chapter/speaker-chapter.trans.txt contains lines `speaker-chapter-number TEXT`, and the
    recordings lie beside it.

    Args:
        folder: The corpus, or a folder that contains it.
        profile: How the text is normalized, see `normalize`.
        changes: Receives how often the profile removed or replaced each character.

    Returns:
        The usable utterances, and the others with the reasons why they were left out.

    Raises:
        DataError: If there is no such transcript or no such folder.
    """
    folder = _require_folder(folder)
    transcripts = [
        (str(path.parent / line.partition(" ")[0]), line.partition(" ")[2])
        for path in _find_texts(folder, ".trans.txt")
        for _, line in read_lines(path, DataError)
        if line.strip()
    ]
    if not transcripts:
        raise DataError(
            f"{folder} contains no transcript *.trans.txt; specify a folder of LibriSpeech, such as "
            "LibriSpeech/dev-clean"
        )

    def identify(stem: str) -> tuple[str, str]:
        name = os.path.basename(stem)
        return name, name.partition("-")[0]

    return _assemble(_pair(folder, transcripts, identify), profile, changes)


def read_common_voice(
    tsv: FilePath, profile: str = "english", changes: Counter[str] | None = None
) -> tuple[list[Utterance], list[Reject]]:
    """Read a table of Common Voice (train.tsv, dev.tsv, ...) with the folder `clips` beside it.

    Args:
        tsv: The table; it needs the columns `path` and `sentence`, and `client_id` is the speaker.
        profile: How the text is normalized, see `normalize`.
        changes: Receives how often the profile removed or replaced each character.

    Returns:
        The usable utterances, and the others with the reasons why they were left out.

    Raises:
        DataError: If the table, a column or the folder is missing.
    """
    tsv = Path(tsv)
    clips = tsv.parent / "clips"
    rows = read_lines(tsv, DataError)
    # The csv module cannot read this, because quotation marks in the sentences are not escaped.
    header = next(rows, (1, ""))[1].split("\t")
    if not {"path", "sentence"} <= set(header):
        raise DataError(
            f"{tsv} does not begin with the names of the columns path and sentence; specify a table "
            "of Common Voice, such as train.tsv"
        )
    _require_folder(clips)
    candidates: list[_Candidate | Reject] = []
    for number, line in rows:
        row = dict(zip(header, line.split("\t"), strict=False))
        if not row.get("path") or "sentence" not in row:
            candidates.append(Reject(f"line {number}", "columns missing"))
            continue
        name = os.path.splitext(row["path"])[0]
        audio = os.path.join(clips, row["path"])
        candidates.append(_Candidate(name, audio, row["sentence"], row.get("client_id", "")))
    return _assemble(candidates, profile, changes)


def read_kaldi(
    folder: FilePath, profile: str = "plain", changes: Counter[str] | None = None
) -> tuple[list[Utterance], list[Reject]]:
    """Read a Kaldi data folder: wav.scp, text and, if speakers are known, utt2spk.

    Args:
        folder: The data folder. Relative paths in wav.scp start from it. Utterances whose entry is a
            command (`sph2pipe ... |`) are rejected; the command is not run.
        profile: How the text is normalized, see `normalize`.
        changes: Receives how often the profile removed or replaced each character.

    Returns:
        The usable utterances, and the others with the reasons why they were left out.

    Raises:
        DataError: If a file is missing or lists an id twice, or if there is a file `segments`.
    """
    folder = _require_folder(folder)
    if (folder / "segments").exists():
        raise DataError(
            f"{folder / 'segments'} cuts utterances out of longer recordings, which is not "
            "supported; cut them into one file each (Kaldi's extract-segments) and list those"
        )
    recordings = _read_table(folder / "wav.scp")
    texts = _read_table(folder / "text")
    speakers = _read_table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    candidates: list[_Candidate | Reject] = []
    for name in recordings | texts:
        audio = recordings.get(name, "")
        if audio.endswith("|"):
            candidates.append(Reject(name, "audio is a command", audio))
            continue
        audio = os.path.join(folder, audio) if audio else ""
        candidates.append(_Candidate(name, audio, texts.get(name), speakers.get(name, "")))
    return _assemble(candidates, profile, changes)


def read_folder(
    folder: FilePath, profile: str = "plain", changes: Counter[str] | None = None
) -> tuple[list[Utterance], list[Reject]]:
    """Read recordings x.wav (or another format) at any depth, each beside its transcript x.txt.

    Names match however their accents are encoded, and `x.TXT` is a transcript too. The id of an
    utterance is its path below the folder without the extension; its speaker is the first folder of
    that path, if there is one.

    Args:
        folder: The folder of recordings and transcripts.
        profile: How the text is normalized, see `normalize`.
        changes: Receives how often the profile removed or replaced each character.

    Returns:
        The usable utterances, and the others with the reasons why they were left out.

    Raises:
        DataError: If there is no such folder, or neither a recording nor a transcript in it.
    """
    folder = _require_folder(folder)
    transcripts = [
        (str(path.with_suffix("")), _read_transcript(path)) for path in _find_texts(folder, ".txt")
    ]

    def identify(stem: str) -> tuple[str, str]:
        name = Path(stem)
        return name.as_posix(), name.parts[0] if len(name.parts) > 1 else ""

    candidates = _pair(folder, transcripts, identify)
    if not candidates:
        raise DataError(f"{folder} contains no recording; add x.wav and its transcript x.txt")
    return _assemble(candidates, profile, changes)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An utterance as the corpus describes it, before any check."""

    id: str
    audio: str  # path; empty if the corpus has no recording
    text: str | None  # in the spelling of the corpus; None if it has no transcript
    speaker: str


def _require_folder(folder: FilePath) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; specify the one that contains the corpus")
    return folder


def _find_texts(folder: Path, ending: str) -> list[Path]:
    """Text files at any depth, without hidden files such as the `._x.txt` of macOS."""
    files = walk_files(folder, DataError)
    return sorted(path for path in files if path.name.lower().endswith(ending))


def _read_transcript(path: Path) -> str | DataError:
    """The text of a transcript, or the error that reading it raised."""
    try:
        return "\n".join(line for _, line in read_lines(path, DataError))
    except DataError as error:
        return error


def _read_table(path: Path) -> dict[str, str]:
    """Read a Kaldi table, whose lines contain a key, white space and a value, which may be empty."""
    table: dict[str, str] = {}
    for number, line in read_lines(path, DataError):
        key, *value = line.split(maxsplit=1) or [""]
        if key in table:
            raise DataError(
                f"{path}, line {number}: {quote(key)} is listed twice; remove one of them"
            )
        if key:
            table[key] = value[0].rstrip() if value else ""
    return table


def _pair(
    folder: Path,
    transcripts: Sequence[tuple[str, str | DataError]],
    identify: Callable[[str], tuple[str, str]],
) -> list[_Candidate | Reject]:
    """Join transcripts and the recordings below a folder by their paths.

    Args:
        folder: The corpus.
        transcripts: Path without extension, and text or the error that reading it raised.
        identify: Gives the (id, speaker) of a path below the folder without extension.
    """
    inside = "" if folder == Path() else os.path.join(folder, "")

    def locate(path: str) -> str:
        """The path below the folder; macOS and Linux encode the same accents differently."""
        return unicodedata.normalize("NFC", path.removeprefix(inside))

    recordings: dict[str, list[str]] = {}
    for path in find_audio(folder):
        recordings.setdefault(locate(os.path.splitext(path)[0]), []).append(str(path))
    texts = [(locate(stem), text) for stem, text in transcripts]
    silent = sorted(recordings.keys() - {stem for stem, _ in texts})
    candidates: list[_Candidate | Reject] = []
    for stem, text in [*texts, *((stem, None) for stem in silent)]:
        name, speaker = identify(stem)
        audio = recordings.get(stem, [""])
        if len(audio) > 1:
            files = ", ".join(map(os.path.basename, audio))
            candidates.append(Reject(name, "several recordings", files))
        elif isinstance(text, DataError):
            candidates.append(Reject(name, "transcript unreadable", str(text)))
        else:
            candidates.append(_Candidate(name, audio[0], text, speaker))
    return candidates


def _assemble(
    candidates: Iterable[_Candidate | Reject], profile: str, changes: Counter[str] | None
) -> tuple[list[Utterance], list[Reject]]:
    """Split candidates into utterances with normalized text and known length, and rejects."""
    rejects: list[Reject] = []
    usable: list[Utterance] = []  # of unknown length
    seen: set[str] = set()
    for candidate in candidates:
        if isinstance(candidate, Reject):
            rejects.append(candidate)
        elif candidate.id in seen:
            rejects.append(Reject(candidate.id, "id occurs twice"))
        elif candidate.text is None:
            rejects.append(Reject(candidate.id, "transcript missing"))
        elif not os.path.isfile(candidate.audio):
            rejects.append(Reject(candidate.id, "audio missing", candidate.audio))
        elif text := normalize(candidate.text, profile):
            usable.append(Utterance(candidate.id, candidate.audio, 0.0, text, candidate.speaker))
            if changes is not None:
                changes.update(count_changes(candidate.text, profile))
        else:
            rejects.append(Reject(candidate.id, "empty text"))
        if isinstance(candidate, _Candidate):
            seen.add(candidate.id)
    utterances: list[Utterance] = []
    with ThreadPoolExecutor() as pool:
        lengths = pool.map(_measure_seconds, [utterance.audio for utterance in usable])
        for utterance, seconds in zip(usable, lengths, strict=True):
            if isinstance(seconds, AudioError):
                rejects.append(Reject(utterance.id, "audio unreadable", str(seconds)))
            else:
                utterances.append(replace(utterance, seconds=seconds))
    return utterances, rejects


def _measure_seconds(audio: str) -> float | AudioError:
    """The length of a recording, or the error that reading its header raised."""
    try:
        return inspect_audio(audio).seconds
    except AudioError as error:
        return error
