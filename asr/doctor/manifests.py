"""Reading manifests that contain unusable lines, and writing them without faulty utterances."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr.data.manifest import Reject, Utterance, parse_record, parse_utterance, write_records
from asr.doctor.findings import ERROR, WARNING, Diagnosis
from asr.errors import DataError, quote
from asr.files import FilePath, read_lines


def read_leniently(path: FilePath) -> tuple[list[Utterance], list[Reject]]:
    """The utterances of a manifest, and the lines that `read_manifest` would reject.

    Empty texts are accepted here, because `examine` reports them. Raises DataError only if the file
    cannot be read at all, or if all its lines are blank.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    refused: list[Reject] = []
    lines: dict[str, int] = {}
    for number, line in read_lines(path, DataError, undecodable="surrogateescape"):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            utterance = _parse_leniently(line, where, str(path.parent))[0]
            first = lines.setdefault(utterance.id, number)
            if first != number:
                raise DataError(
                    f"{where}: the id {quote(utterance.id)} is already used by line {first}"
                )
            utterances.append(utterance)
        except DataError as error:
            refused.append(Reject(where, "line", str(error)))
    if not utterances and not refused:
        raise DataError(f"{path} contains no utterances; write one JSON object per line")
    return utterances, refused


def _parse_leniently(line: str, where: str, folder: str) -> tuple[Utterance, dict[str, Any]]:
    """A line's utterance, whose text may be empty, and its JSON object. Raises DataError."""
    if _is_broken(line):
        raise DataError(f"{where} is not UTF-8 text; convert the file to UTF-8")
    record = parse_record(line, where)
    text = record.get("text")
    if isinstance(text, str) and not text.strip():
        utterance = replace(parse_utterance(record | {"text": "-"}, where, folder), text=text)
    else:
        utterance = parse_utterance(record, where, folder)
    for key in ("id", "audio_filepath", "text", "speaker"):
        if _is_broken(str(record.get(key, ""))):
            raise DataError(
                f'{where}: "{key}" contains a lone surrogate, which is not a character; correct it'
            )
    return utterance, record


def _is_broken(text: str) -> bool:
    """Whether a text contains surrogates, which are not characters and cannot be written."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def write_clean(source: FilePath, target: FilePath, kept: Iterable[Utterance]) -> None:
    """Write a copy of the manifest `source` that contains only the utterances in `kept`.

    Lines keep all their keys; recordings are named as `write_manifest` does. Raises FileError if
    the file cannot be written, and DataError if a name is not valid Unicode.
    """
    source = Path(source)
    wanted = {utterance.id for utterance in kept}

    def choose() -> Iterator[dict[str, Any]]:
        for _, line in read_lines(source, DataError, undecodable="surrogateescape"):
            with contextlib.suppress(DataError):
                utterance, record = _parse_leniently(line, "", str(source.parent))
                if utterance.id in wanted:
                    wanted.remove(utterance.id)
                    yield record | {"audio_filepath": utterance.audio}

    write_records(target, choose())


def select_clean(
    utterances: Iterable[Utterance], diagnosis: Diagnosis, split: str, strict: bool = False
) -> list[Utterance]:
    """The utterances of a split without errors and, if `strict`, without warnings."""
    bad = {ERROR, WARNING} if strict else {ERROR}
    named = {
        name
        for finding in diagnosis.findings
        if finding.split == split and finding.severity in bad and finding.kind != "line"
        for name in finding.ids
    }
    return [utterance for utterance in utterances if utterance.id not in named]
