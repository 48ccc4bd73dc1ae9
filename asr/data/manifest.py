"""Speech as training data: manifests, corpora, and batches in the order of a plan.

    corpus folder --read_*--> [Utterance] <--read_manifest/write_manifest--> JSONL
    load_batches(SpeechDataset, Planner, epochs) -> Batch, Batch, ...

What is in a batch is a pure function of its plan and of (seed, epoch, utterance): not of the number
of workers or processes, nor of where a run was interrupted.
"""

import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from asr.data.planning import hash_id
from asr.errors import DataError
from asr.files import write_atomically

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording of one speaker, `seconds` long, and what was said in it."""

    id: str
    audio: str  # path
    seconds: float
    text: str
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """An utterance that was left out: its id, a reason that others share, and its own details."""

    id: str
    reason: str
    detail: str = ""


def summarize_rejects(rejects: Iterable[Reject]) -> str:
    """A line for each reason, the commonest first: how many, and up to three of them by id."""
    groups: dict[str, list[Reject]] = {}
    for reject in rejects:
        groups.setdefault(reject.reason, []).append(reject)
    lines = []
    for reason, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        named = [f"{r.id} ({r.detail})" if r.detail else r.id for r in group[:3]]
        more = ", ..." if len(group) > 3 else ""
        lines.append(f"{len(group)} left out, {reason}: {', '.join(named)}{more}")
    return "\n".join(lines)


def read_manifest(path: StrPath) -> list[Utterance]:
    """The utterances of a JSONL manifest, in its order.

    Each line is an object with NeMo's keys `audio_filepath` (relative ones: to the manifest's
    folder), `duration` in seconds and `text`, and optionally `id` (else the file's name without its
    ending) and `speaker`; other keys are ignored. Recordings are not opened here.

    Raises DataError naming the line for anything that is not so, for an id that occurs twice, and
    for a manifest without an utterance.
    """
    path = Path(path)
    return list(parse_manifest(path, str(path.parent)))


def parse_manifest(
    path: Path,
    folder: str,
    suspects: Container[int] | None = None,
    hear: Callable[[bytes], object] = lambda _: None,
) -> Iterator[Utterance]:
    """What `read_manifest` reads, one by one, with recordings relative to `folder`.

    Where `suspects` are given, ids are compared only if `hash_id` of them is among these: to
    compare all of them takes as much memory as they do. `hear` is told each raw line.
    """
    lines: dict[str, int] = {}
    empty = True
    for number, line in read_lines(path, hear):
        if not line.strip():
            continue
        empty = False
        utterance = parse_utterance(line, f"{path}, line {number}", folder)
        if suspects is None or hash_id(utterance.id) in suspects:
            first = lines.setdefault(utterance.id, number)
            if first != number:
                raise DataError(
                    f"{path}, line {number}: the id {utterance.id!r} is already that of line "
                    f'{first}; give every utterance an "id" of its own.'
                )
        yield utterance
    if empty:
        raise DataError(f"{path} holds no utterance; write one JSON object a line into it.")


def write_manifest(path: StrPath, utterances: Iterable[Utterance]) -> None:
    """Write what `read_manifest` reads: wholly or, where anything fails, not at all.

    Recordings inside the manifest's folder are named relative to it, so the two move together;
    others by their absolute path. Raises FileError where the file cannot be written, DataError for
    a name that is not valid Unicode.
    """
    write_records(
        path,
        (
            {
                "id": utterance.id,
                "audio_filepath": utterance.audio,
                "duration": utterance.seconds,
                "text": utterance.text,
                "speaker": utterance.speaker,
            }
            for utterance in utterances
        ),
    )


def write_records(path: StrPath, records: Iterable[dict[str, Any]]) -> None:
    """`write_manifest` of a manifest's objects, with whatever keys they have."""
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
            "not valid Unicode; rename the file."
        ) from error


def _make_absolute(path: StrPath) -> str:
    """The path from the root on; links are followed where they lie before `..`, which abspath drops."""
    if ".." not in Path(path).parts:
        return os.path.abspath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def parse_utterance(line: str, where: str, folder: str) -> Utterance:
    """The utterance of a manifest's line; DataError, beginning with `where`, for a line without."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where} is not JSON ({problem}); mend or remove it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line.")
    audio = _field(record, "audio_filepath", str, "a string", where)
    name = _field(record, "id", str, "a string", where) if "id" in record else ""
    name = name or os.path.splitext(os.path.basename(audio))[0]
    where = f"{where} (utterance {name!r})"
    if not audio or not name:
        raise DataError(f'{where}: "audio_filepath" is {audio!r}; name a recording.')
    seconds = _field(record, "duration", (int, float), "a number", where)
    if not 0 < seconds < 1e9:  # false for NaN too
        raise DataError(f'{where}: "duration" is {seconds}; it must be the seconds, above 0.')
    text = _field(record, "text", str, "a string", where)
    if not text.strip():
        raise DataError(f'{where}: "text" is empty; give it words or remove the line.')
    if record.get("offset"):
        raise DataError(
            f'{where}: "offset" is {record["offset"]!r}, but only whole recordings can be read; '
            "cut the recording into one file an utterance."
        )
    speaker = record.get("speaker", "")
    if not isinstance(speaker, str | int):
        raise DataError(f'{where}: "speaker" is {speaker!r}; it must be a string.')
    return Utterance(name, os.path.join(folder, audio), float(seconds), text, str(speaker))


def _field(
    record: dict[str, Any], key: str, kind: type | tuple[type, ...], noun: str, where: str
) -> Any:
    if key not in record:
        raise DataError(f'{where} has no "{key}"; every utterance needs it.')
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f'{where}: "{key}" is {value!r}; it must be {noun}.')
    return value


def read_lines(
    path: Path, hear: Callable[[bytes], object] = lambda _: None, errors: str = "strict"
) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file (with or without a byte order mark), counted from 1.

    `hear` is told each as it stands in the file. Raises DataError for what is no such file, unless
    `errors` says what else becomes of bytes that are not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                hear(line)
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {number} is not UTF-8 text; convert the file to UTF-8."
                    ) from error
                yield number, text.rstrip("\r\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
