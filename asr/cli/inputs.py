"""Inputs that the command line names: recordings, transcripts and files of texts."""

import io
import json
import os
import re
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError, DataError, TextError, quote
from asr.files import read_lines
from asr.progress import complain

if TYPE_CHECKING:
    from asr.audio.containers import Track


@dataclass(frozen=True)
class Input:
    """A recording to transcribe; `output` is the path of its transcript without the ending."""

    name: str
    output: Path
    content: bytes | None = None  # the bytes of standard input or of a named pipe
    track: int | None = None  # None: the recording's own choice

    @property
    def source(self) -> "str | io.BytesIO | Track":
        """The source of the audio: a path, or bytes that error messages can name, or its track."""
        from asr.audio.containers import Track

        file: str | io.BytesIO = self.name
        if self.content is not None:
            file = io.BytesIO(self.content)
            file.name = "standard input" if self.name == "-" else self.name
        return file if self.track is None else Track(file, self.track)


class UnclearFormatError(DataError):
    """The lines of a file may begin with an id or not."""


def check_standard_input(names: Sequence[str]) -> None:
    """Raise AsrError if standard input (-) is among the names more than once."""
    if names.count("-") > 1:
        raise AsrError("standard input (-) can be read only once; pass it once")


def find_inputs(names: list[str]) -> tuple[list[Input], list[str]]:
    """The recordings that are named, and a sentence for each folder that contains none."""
    from asr.audio.waveform import count_other_files, describe_other_files, find_audio

    check_standard_input(names)
    inputs, failures = [], []
    for name in names:
        path = Path(name)
        if name == "-":
            inputs.append(Input(name, Path("stdin"), sys.stdin.buffer.read()))
        elif path.is_fifo():
            inputs.append(Input(name, Path(path.name), path.read_bytes()))
        elif path.is_dir():
            refused: list[str] = []
            found = find_audio(name, on_error=refused.append)
            failures += [f"{message}." for message in refused]
            inputs += [Input(str(p), p.relative_to(name).with_suffix("")) for p in found]
            if others := count_other_files(name):
                complain(f"asr: {describe_other_files(name, others)}.")
            if not found and not refused:
                failures.append(f"{name} is a folder without recordings; choose another.")
        else:
            inputs.append(Input(name, Path(os.path.splitext(path.name)[0])))
    return inputs, failures


def read_transcript(given: str) -> str:
    """A transcript that is given as words, as a .txt file or on standard input (-)."""
    advice = "pass the transcript as plain text"
    if given == "-":
        try:
            return sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError(f"standard input is not UTF-8 text; {advice}") from error
    if given.lower().endswith(".txt"):
        return "\n".join(line for _, line in read_lines(given, TextError, advice))
    if Path(given).suffix and os.path.isfile(given):
        raise TextError(
            f"{given} is a file, but not a .txt file; rename it, or pass its text on standard input"
        )
    return given


def read_texts(
    path: Path, keys: Sequence[str], form: str | None = None, known: Container[str] = ()
) -> dict[str, str]:
    """Read texts by id, in a format that is recognized from the lines of the file.

    JSONL, sclite's trn (`text (id)`), tables with tabs and a header, and Kaldi's `id text` if a tab
    follows every first word, or if every first word has a digit or an underscore.

    Args:
        path: The file.
        keys: Names of the text in JSONL and headers, of which the first that occurs is taken.
        form: "kaldi" or "lines" (plain sentences, whose ids are their line numbers) for files that
            are not JSONL; None: recognize it.
        known: Ids of the other file: first words that are all among them are ids.

    Raises:
        DataError: If the file cannot be read or an id occurs twice.
        UnclearFormatError: If the lines may begin with an id or not.
    """
    advice = "specify a manifest, a table, a trn file, a Kaldi text file or plain lines"
    lines = list(read_lines(path, DataError, advice))
    filled = [(number, line) for number, line in lines if line.strip()]
    if filled and filled[0][1].startswith("{") and not _TRN.fullmatch(filled[0][1]):
        form = "jsonl"
    form = form or (_recognize(path, filled, keys, known) if filled else "kaldi")
    if form == "lines":
        return {str(number): line.strip() for number, line in lines}
    header = filled.pop(0)[1].split("\t") if form == "tsv" else []
    texts: dict[str, str] = {}
    for number, line in filled:
        where = f"{path}, line {number}"
        if form == "jsonl":
            name, text = _parse_json_text(line, keys, where)
        elif form == "tsv":
            cells = line.split("\t")
            if len(cells) != len(header):
                raise DataError(f"{where} has {len(cells)} columns, not {len(header)}; correct it")
            name, text = _parse_row(dict(zip(header, cells, strict=True)), keys)
        elif form == "trn":
            if line.startswith(";;"):  # a comment
                continue
            name, text = _parse_trn(line, where)
        else:
            name, *words = line.split()
            text = " ".join(words)
        if name in texts:
            raise DataError(
                f"{where}: the id {quote(name)} occurs twice; use a unique id for each text"
            )
        texts[name] = text
    return texts


def read_systems(
    reference: Path, systems: Sequence[Path], form: str | None = None
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read reference texts and the texts of systems by id; see `read_texts`.

    The ids of one file tell what the first words of another are.
    """
    keys = ("pred_text", "text")
    try:
        references = read_texts(reference, ("text",), form)
    except UnclearFormatError:
        first = read_texts(systems[0], keys, form)
        references = read_texts(reference, ("text",), form, first)
    return references, [read_texts(path, keys, form, references) for path in systems]


def read_speakers(manifest: Path, ids: Container[str]) -> dict[str, str] | None:
    """The speaker of each utterance in a manifest; None unless it names those of all `ids`.

    A file in another format names none.
    """
    speakers: dict[str, str] = {}
    for number, line in read_lines(manifest, DataError):
        if not line.strip():
            continue
        if not line.startswith("{"):
            return None
        record = _parse_object(line, f"{manifest}, line {number}")
        speaker = record.get("speaker")
        if not isinstance(speaker, str) or not speaker:
            return None
        speakers[_name_record(record)] = speaker
    return speakers if speakers and all(name in ids for name in speakers) else None


_TRN = re.compile(r"(.*)\(([^()\s]+)\)\s*")
_TIMED = re.compile(r"\S+\s+\S+\s+(\S+\s+)?\d+\.\d+\s+\d+\.\d+(\s.*|)")  # sclite's stm and ctm
_ID_COLUMNS = ("id", "utterance_id", "utt_id", "utterance", "utt", "key", "name")
_PATH_COLUMNS = ("audio_filepath", "path", "audio", "file", "filename", "file_name")
_TEXT_COLUMNS = ("sentence", "transcript", "transcription")


def _recognize(
    path: Path, lines: Sequence[tuple[int, str]], keys: Sequence[str], known: Container[str]
) -> str:
    """The format of lines with text that are not JSON. Raises UnclearFormatError."""
    texts = [line for _, line in lines]
    header = set(texts[0].split("\t"))
    if header & {*_ID_COLUMNS, *_PATH_COLUMNS} and header & {*keys, *_TEXT_COLUMNS}:
        return "tsv"
    first = [line.split()[0] for line in texts]
    # A tab separates the id from the text; plain lines have none.
    tabs = all(line.split(" ")[0].count("\t") == 1 for line in texts if len(line.split()) > 1)
    ids_come_first = (
        all(map(_is_id, first))
        or all(word in known for word in first)
        or (tabs and any("\t" in line for line in texts))
    )
    spoken = [line for line in texts if not line.startswith(";;")]
    matches = [_TRN.fullmatch(line) for line in spoken]
    last = [match[2] for match in matches if match]
    if last and len(last) == len(spoken) == len(set(last)):
        ids_come_last = all(map(_is_id, last)) or all(word in known for word in last)
        if ids_come_last != ids_come_first:
            return "trn" if ids_come_last else "kaldi"
        if not ids_come_last:
            return "trn"
    elif ids_come_first and not _is_table(texts) and not all(map(_TIMED.fullmatch, texts)):
        return "kaldi"
    raise UnclearFormatError(
        f"{path}: it is not clear whether its lines begin with an id; add --format kaldi if they do "
        "(id, space, text), or --format lines if each line is only a text, in the same order in both "
        "files"
    )


def _is_id(word: str) -> bool:
    return bool(re.search(r"[\d_/]", word)) and not re.search(r"[,;]", word)


def _is_table(lines: Sequence[str]) -> bool:
    """Whether the lines have three columns or more."""
    return all(line.count("\t") > 1 for line in lines)


def _parse_row(row: Mapping[str, str], keys: Sequence[str]) -> tuple[str, str]:
    named = [row[column] for column in _ID_COLUMNS if column in row]
    named += [Path(row[column]).stem for column in _PATH_COLUMNS if column in row]
    return named[0], next(row[key] for key in (*keys, *_TEXT_COLUMNS) if key in row)


def _parse_trn(line: str, where: str) -> tuple[str, str]:
    match = _TRN.fullmatch(line)
    if not match:
        raise DataError(f"{where} does not end with (id); add it, as on the other lines")
    if re.search(r"\{.*/.*\}", match[1]):
        raise DataError(f"{where} has alternatives {{ a / b }}, which are not supported; keep one")
    return match[2], " ".join(match[1].split())


def _parse_json_text(line: str, keys: Sequence[str], where: str) -> tuple[str, str]:
    record = _parse_object(line, where)
    name = _name_record(record)
    if name == "":
        raise DataError(f'{where} has neither "id" nor "audio_filepath"; add an id to each text')
    text = next((record[key] for key in keys if key in record), None)
    if not isinstance(text, str):
        raise DataError(f'{where} has no string "{keys[-1]}"; add the text of the utterance')
    return name, text


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); fix or remove it") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line")
    return record


def _name_record(record: Mapping[str, Any]) -> str:
    """The id of a line of a manifest, by default the name of its recording; may be empty."""
    return str(record.get("id", Path(str(record.get("audio_filepath", ""))).stem))
