"""Manifests: lists of utterances as JSON lines, in NeMo's format.

corpus folder --read_*--> [Utterance] <--read_manifest/write_manifest--> JSONL
"""

import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from asr.data.planning import hash_id
from asr.errors import DataError, quote
from asr.files import MOST_PATH, FilePath, read_lines, write_atomically


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording of one speaker and its transcript.

    Attributes:
        id: Name of the utterance, unique within a manifest.
        audio: Path of the recording.
        seconds: Length of the recording.
        text: The transcript.
        speaker: Name of the speaker; empty if unknown.

    Example:
        >>> Utterance("u1", "audio/u1.wav", 1.5, "hello world").seconds
        1.5
    """

    id: str
    audio: str
    seconds: float
    text: str
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """An utterance that was left out.

    Attributes:
        id: Name of the utterance.
        reason: Why it was left out, in words that all utterances with this reason share.
        detail: What is specific to this utterance; may be empty.
    """

    id: str
    reason: str
    detail: str = ""


def summarize_rejects(rejects: Iterable[Reject]) -> str:
    """One line for each reason, most frequent first, with a count and up to three ids."""
    groups: dict[str, list[Reject]] = {}
    for reject in rejects:
        groups.setdefault(reject.reason, []).append(reject)
    lines = []
    for reason, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        named = [f"{r.id} ({r.detail})" if r.detail else r.id for r in group[:3]]
        more = ", ..." if len(group) > 3 else ""
        lines.append(f"{len(group)} left out, {reason}: {', '.join(named)}{more}")
    return "\n".join(lines)


def read_manifest(path: FilePath) -> list[Utterance]:
    """Read the utterances of a JSONL manifest; the recordings themselves are not opened.

    Each line is a JSON object with NeMo's keys: `audio_filepath` (a relative path starts at the
    manifest's folder), `duration` in seconds and `text`. Optional keys are `id` (by default the
    recording's file name without its extension) and `speaker`. All other keys are ignored.

    Args:
        path: The manifest.

    Returns:
        The utterances in the order of the manifest.

    Raises:
        DataError: If the file cannot be read, a line is invalid, an id occurs twice, or there is no
            utterance; the message names the line.

    Example:
        >>> write_manifest("train.jsonl", [Utterance("u1", "u1.wav", 1.5, "hello world")])
        >>> read_manifest("train.jsonl")[0].text
        'hello world'
    """
    path = Path(path)
    return list(parse_manifest(path, str(path.parent)))


def parse_manifest(
    path: Path,
    folder: str,
    compared_hashes: Container[int] | None = None,
    on_line: Callable[[bytes], object] | None = None,
) -> Iterator[Utterance]:
    """Read a manifest like `read_manifest`, one utterance at a time.

    Args:
        path: The manifest.
        folder: Folder to which relative paths of recordings are joined.
        compared_hashes: Hashes (`hash_id`) of the ids that are checked for duplicates, which limits
            the memory that the check needs; None checks all ids.
        on_line: Called with each raw line.
    """
    lines: dict[str, int] = {}
    empty = True
    for number, line in read_lines(path, DataError, on_line=on_line):
        if not line.strip():
            continue
        empty = False
        where = f"{path}, line {number}"
        utterance = parse_utterance(parse_record(line, where), where, folder)
        if compared_hashes is None or hash_id(utterance.id) in compared_hashes:
            first = lines.setdefault(utterance.id, number)
            if first != number:
                raise DataError(
                    f"{where}: the id {quote(utterance.id)} is already used on line {first}; "
                    'give every utterance a unique "id"'
                )
        yield utterance
    if empty:
        raise DataError(f"{path} contains no utterance; write one JSON object per line")


def write_manifest(path: FilePath, utterances: Iterable[Utterance]) -> None:
    """Write a JSONL manifest that `read_manifest` reads; if anything fails, nothing is written.

    Paths of recordings inside the manifest's folder are stored relative to it, so that the folder
    can be moved; all other paths are stored as absolute paths.

    Args:
        path: The manifest; missing folders are created and an existing file is replaced.
        utterances: The utterances, in the order in which they are written.

    Raises:
        FileError: If the file cannot be written.
        DataError: If the path of a recording is not valid Unicode.

    Example:
        >>> write_manifest("dev.jsonl", [Utterance("u2", "u2.wav", 2.0, "good night")])
        >>> [utterance.id for utterance in read_manifest("dev.jsonl")]
        ['u2']
    """
    records = (
        {
            "id": utterance.id,
            "audio_filepath": utterance.audio,
            "duration": utterance.seconds,
            "text": utterance.text,
            "speaker": utterance.speaker,
        }
        for utterance in utterances
    )
    write_records(path, records)


def write_records(path: FilePath, records: Iterable[dict[str, Any]]) -> None:
    """Write a manifest from its JSON objects, keeping all of their keys; see `write_manifest`."""
    path = Path(path)
    inside = os.path.join(_make_absolute(path.parent), "")

    def write(file: IO[bytes]) -> None:
        for record in records:
            audio = _make_absolute(record["audio_filepath"]).removeprefix(inside)
            line = json.dumps(record | {"audio_filepath": audio}, ensure_ascii=False)
            file.write((line + "\n").encode())

    try:
        write_atomically(path, write)
    except UnicodeEncodeError as error:
        raise DataError(
            f"The manifest {path} cannot be written: a name in it, {error.object[:80]!a}, is "
            "not valid Unicode; rename the file"
        ) from error


def _make_absolute(path: FilePath) -> str:
    """Return the absolute path, resolving symbolic links before `..` unlike `os.path.abspath`."""
    if ".." not in Path(path).parts:
        return os.path.abspath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def parse_record(line: str, where: str) -> dict[str, Any]:
    """The JSON object of a line. Raises DataError with `where` if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where} is not JSON ({problem}); fix or remove it") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one {{...}} per line")
    return record


def parse_utterance(record: dict[str, Any], where: str, folder: str) -> Utterance:
    """The utterance that a line's JSON object describes.

    Args:
        record: The object.
        where: How error messages name the line.
        folder: Folder to which a relative path of the recording is joined.

    Raises:
        DataError: If a value is missing or invalid.
    """
    audio = _field(record, "audio_filepath", str, "a string", where)
    name = _field(record, "id", str, "a string", where) if "id" in record else ""
    name = name or os.path.splitext(os.path.basename(audio))[0]
    where = f"{where} (utterance {quote(name)})"
    if not audio or not name:
        raise DataError(f'{where}: "audio_filepath" is {quote(audio)}; specify a recording')
    if len(audio) > MOST_PATH:
        raise DataError(
            f'{where}: "audio_filepath" has {len(audio):,} characters, more than any path; correct it'
        )
    seconds = _field(record, "duration", (int, float), "a number", where)
    if not 0 < seconds < 1e9:  # false for NaN too
        raise DataError(
            f'{where}: "duration" is {seconds}; it must be the length in seconds, above 0'
        )
    text = _field(record, "text", str, "a string", where)
    if not text.strip():
        raise DataError(f'{where}: "text" is empty; write the transcript or remove the line')
    if record.get("offset"):
        raise DataError(
            f'{where}: "offset" is {quote(record["offset"])}, but only whole recordings can be read; '
            "cut the recording into one file per utterance"
        )
    speaker = record.get("speaker", "")
    if not isinstance(speaker, str | int):
        raise DataError(f'{where}: "speaker" is {quote(speaker)}; it must be a string')
    return Utterance(name, os.path.join(folder, audio), float(seconds), text, str(speaker))


def _field(
    record: dict[str, Any], key: str, kind: type | tuple[type, ...], noun: str, where: str
) -> Any:
    if key not in record:
        raise DataError(f'{where} has no "{key}"; add it, because every utterance needs it')
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f'{where}: "{key}" is {quote(value)}; it must be {noun}')
    return value
