"""Inputs that the command line names: recordings, transcripts and files of texts."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import AsrError, DataError, TextError
from asr.files import read_lines


@dataclass(frozen=True)
class Input:
    """A recording to transcribe; `output` is the path of its transcript without the ending."""

    name: str
    output: Path
    content: bytes | None = None  # the bytes of standard input or of a named pipe

    @property
    def source(self) -> str | io.BytesIO:
        """The source of the audio: a path, or bytes that error messages can name."""
        if self.content is None:
            return self.name
        file = io.BytesIO(self.content)
        file.name = "standard input" if self.name == "-" else self.name
        return file


def check_standard_input(names: Sequence[str]) -> None:
    """Raise AsrError if standard input (-) is among the names more than once."""
    if names.count("-") > 1:
        raise AsrError("standard input (-) can be read only once; pass it once")


def find_inputs(names: list[str]) -> tuple[list[Input], list[str]]:
    """The recordings that are named, and a sentence for each folder that contains none."""
    from asr.audio.waveform import find_audio

    check_standard_input(names)
    inputs, failures = [], []
    for name in names:
        path = Path(name)
        if name == "-":
            inputs.append(Input(name, Path("stdin"), sys.stdin.buffer.read()))
        elif path.is_fifo():
            inputs.append(Input(name, Path(path.name), path.read_bytes()))
        elif path.is_dir():
            found = find_audio(name)
            inputs += [Input(str(p), p.relative_to(name).with_suffix("")) for p in found]
            if not found:
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


def read_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Read texts by id, from JSONL (the first of `keys` that an object has) or Kaldi lines."""
    texts: dict[str, str] = {}
    is_json = None
    for number, line in read_lines(path, DataError, "specify a manifest or a Kaldi text file"):
        if not line.strip():
            continue
        if is_json is None:
            is_json = line.startswith("{")
        where = f"{path}, line {number}"
        name, text = _parse_json_text(line, keys, where) if is_json else _parse_kaldi_text(line)
        if name in texts:
            raise DataError(f"{where}: the id {name!r} occurs twice; use a unique id for each text")
        texts[name] = text
    return texts


def _parse_kaldi_text(line: str) -> tuple[str, str]:
    name, *words = line.split()
    return name, " ".join(words)


def _parse_json_text(line: str, keys: Sequence[str], where: str) -> tuple[str, str]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); fix or remove it") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line")
    name = record.get("id", Path(str(record.get("audio_filepath", ""))).stem)
    if name == "":
        raise DataError(f'{where} has neither "id" nor "audio_filepath"; add an id to each text')
    text = next((record[key] for key in keys if key in record), None)
    if not isinstance(text, str):
        raise DataError(f'{where} has no string "{keys[-1]}"; add the text of the utterance')
    return str(name), text
