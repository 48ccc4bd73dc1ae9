"""What is named on the command line: recordings, transcripts and files of texts."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.errors import AsrError, AudioError, DataError, TextError


class _NamedBytes(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@dataclass(frozen=True)
class Input:
    """A recording to transcribe: `output` is its transcript's name, without the ending."""

    name: str
    output: Path
    content: bytes | None = None  # of what can be read only once

    def open(self) -> str | _NamedBytes:
        """A path, or the bytes that were read, named for error messages."""
        if self.content is None:
            return self.name
        return _NamedBytes(self.content, "standard input" if self.name == "-" else self.name)


def sort_by_seconds(given: Input) -> float:
    """The seconds that a recording lasts; 0 where it cannot be read, as whoever reads it will say."""
    from asr.audio.waveform import inspect_audio

    try:
        return inspect_audio(given.open()).seconds
    except AudioError:
        return 0.0


def find_inputs(names: list[str]) -> tuple[list[Input], list[str]]:
    """The recordings that are meant, and a sentence for each folder without any."""
    from asr.audio.waveform import find_audio

    if names.count("-") > 1:
        raise AsrError("Standard input (-) can be read only once; name it once.")
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
                failures.append(f"{name} is a folder without recordings; name another.")
        else:
            inputs.append(Input(name, Path(path.stem)))
    return inputs, failures


def read_transcript(given: str) -> str:
    """The words that are given themselves, in a .txt file or on standard input."""
    if given == "-":
        name, content = "Standard input", sys.stdin.buffer.read()
    elif given.lower().endswith(".txt"):
        try:
            name, content = given, Path(given).read_bytes()
        except OSError as error:
            raise TextError(
                f"{given} cannot be read ({error.strerror}); check the path."
            ) from error
    elif Path(given).suffix and os.path.isfile(given):
        raise TextError(
            f"{given} is a file, but no .txt: rename it, or give its text on standard input (-)."
        )
    else:
        return given
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{name} is not UTF-8 text; give the transcript as plain text.") from error


def read_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Texts by id, from JSONL (the first of `keys` that an object has) or lines `id words ...`."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; name a manifest or Kaldi text file.") from error
    texts: dict[str, str] = {}
    is_json = next((line for line in lines if line.strip()), "").startswith("{")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, text = _parse_json_text(line, keys, where) if is_json else _parse_kaldi_text(line)
        if name in texts:
            raise DataError(f"{where}: the id {name!r} occurs twice; give every text its own.")
        texts[name] = text
    return texts


def _parse_kaldi_text(line: str) -> tuple[str, str]:
    name, *words = line.split()
    return name, " ".join(words)


def _parse_json_text(line: str, keys: Sequence[str], where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); mend or remove it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line.")
    name = record.get("id", Path(str(record.get("audio_filepath", ""))).stem)
    if name == "":
        raise DataError(f'{where} has neither "id" nor "audio_filepath"; a text needs a name.')
    text = next((record[key] for key in keys if key in record), None)
    if not isinstance(text, str):
        raise DataError(f'{where} has no string "{keys[-1]}"; write what was said there.')
    return str(name), text
