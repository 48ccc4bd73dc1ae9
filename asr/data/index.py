"""Utterances indexed: what planning asks of each stands in columns, the rest is read when needed.

    manifest --open_index--> Index --select_trainable--> Index of usable utterances, and rejects
    Index.seconds, .hashes, .symbols: columns (N,); Index[i]: the Utterance, its text normalized

The index of a manifest is a file beside it, made once and mapped into memory: a million utterances
are planned in less than a second, and every process holds the same pages. It is a snapshot, so what
is done to the manifest does not reach a training that has begun. The file is, in this order:

    records     [id, seconds, text], ...   as JSON, of all utterances
    places      [recording, speaker], ...  as JSON
    rows        (N,) of `ROW`
    facts       JSON: how long each part is, of which manifest, a checksum of all before
    tail        how long the facts are, and their own checksum
"""

import contextlib
import hashlib
import json
import mmap
import os
import struct
import tempfile
import time
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from asr.data.manifest import StrPath, Utterance, parse_manifest, read_lines
from asr.data.planning import Hashes, Indices, hash_id
from asr.errors import DataError, FileError
from asr.files import remove_leftovers, write_atomically
from asr.text import ctc_frames_needed, normalize

# To be raised where the layout changes, or what a manifest's line is made into; the second number is
# Python's part in that.
FORMAT = [1, unicodedata.unidata_version]

ROW = np.dtype(
    [
        ("hash", "<u8"),  # of the id
        ("seconds", "<f8"),
        ("characters", "<u8"),  # which of the manifest's are in the text, see `_bit`
        ("record", "<i8"),  # where it ends
        ("place", "<i8"),
        ("symbols", "<i4"),
        ("frames_needed", "<i4"),  # by CTC
    ]
)
CODES = "QdQqqii"  # of its columns while they grow
TAIL = struct.Struct("<QII")  # bytes of the facts, their checksum, MARK
MARK = 0x58646E49
SEPARATOR = b", "
READ_BYTES = 1 << 20  # at a time
TOLD_BYTES = 1 << 22  # read between two reports of progress; a small manifest needs none
# A file that was changed so recently may be changed again without its times telling.
LEFT_SECONDS = 3600.0  # after which nobody writes a file any more
UNSETTLED = 2.0  # seconds


class Index(Sequence[Utterance]):
    """Utterances in their order, with normalized texts; `index[i]` reads one, a slice is an Index.

    `open_index` and `index_utterances` make it. Pickled, one of a manifest is its file's path.
    """

    def __init__(self, store: "_Store", indices: Indices | None = None) -> None:
        self._store = store
        self._indices = np.arange(len(store.rows)) if indices is None else indices
        self._whole = indices is None

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> "Index": ...

    def __getitem__(self, index: int | slice) -> "Utterance | Index":
        if isinstance(index, slice):
            return Index(self._store, self._indices[index])
        return self._store.read(int(self._indices[index]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self._store, None if self._whole else self._indices)

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Index":
        """Those utterances where `chosen`, (N,), is true."""
        return Index(self._store, self._indices[chosen])

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """How long each recording is, (N,)."""
        return self._column("seconds")

    @cached_property
    def hashes(self) -> Hashes:
        """`hash_id` of each id, (N,)."""
        return self._column("hash")

    @cached_property
    def symbols(self) -> Indices:
        """How many characters each text has, (N,)."""
        return self._column("symbols").astype(np.int64)

    @cached_property
    def frames_needed(self) -> Indices:
        """In how many encoder frames, at least, CTC can write each text, (N,)."""
        return self._column("frames_needed").astype(np.int64)

    @property
    def characters(self) -> str:
        """Every character of the texts, and of those that were left out of this selection, once."""
        return self._store.characters

    def suspect(self, known: frozenset[str]) -> npt.NDArray[np.bool_]:
        """(N,): false where a text surely holds `known` characters only."""
        unknown = 0
        for number, character in enumerate(self.characters):
            unknown |= 0 if character in known else _bit(number)
        suspected: npt.NDArray[np.bool_] = (self._column("characters") & np.uint64(unknown)) != 0
        return suspected

    def digest(self) -> str:
        """A hash of all ids, seconds and texts in their order: the same whatever holds them."""
        if self._whole:
            return self._store.digest
        ends = self._store.rows["record"]
        digest = hashlib.blake2b(b"[", digest_size=16)
        breaks = np.flatnonzero(np.diff(self._indices) != 1) + 1
        for number, run in enumerate(np.split(self._indices, breaks) if len(self) else []):
            start, _ = self._store.start(int(run[0]))
            digest.update(SEPARATOR if number else b"")
            digest.update(self._store.buffer[start : ends[run[-1]]])
        digest.update(b"]")
        return digest.hexdigest()

    def _column(self, name: str) -> npt.NDArray[Any]:
        column: npt.NDArray[Any] = self._store.rows[name][self._indices]
        return column


def index_utterances(utterances: Iterable[Utterance]) -> Index:
    """The index of utterances that are in memory; it is in memory too. Ids are not compared."""
    output = BytesIO()
    writer = _Writer(output, BytesIO())
    for utterance in utterances:
        writer.add(utterance)
    writer.finish()
    return Index(_Store(output.getbuffer()))


def open_index(manifest: StrPath, advance: Callable[[int], object] = lambda _: None) -> Index:
    """The index of a JSONL manifest, which `asr.data.read_manifest` describes.

    It is made where there is none, or one that is damaged or of other contents, and kept beside the
    manifest as NAME.index; where that cannot be written, in the user's cache folder; failing that,
    in memory. While a large one is made `advance` is told how many more bytes have been read.

    Raises DataError as `read_manifest` does.
    """
    path = Path(manifest)
    next(read_lines(path), None)  # refuses what is no file, before a folder is made for its index
    folder = str(path.parent)
    files = [path.with_name(f"{path.name}.index"), _name_in_cache(path)]
    for file in files:
        store = _open(file, folder)
        if store is not None and _is_of(store, path):
            return Index(store)
    for file in files:

        def write(output: IO[bytes], beside: Path = file.parent) -> None:
            with tempfile.TemporaryFile(dir=beside) as aside:
                _index_manifest(output, aside, path, advance)

        remove_leftovers(file.parent, file.name, older_than=LEFT_SECONDS)
        with contextlib.suppress(FileError):
            write_atomically(file, write)
            store = _open(file, folder)
            if store is not None:
                return Index(store)
    output = BytesIO()
    _index_manifest(output, BytesIO(), path, advance)
    return Index(_Store(output.getbuffer(), folder))


class _Store:
    """The bytes of an index and what they hold. ValueError where its facts are not sound."""

    def __init__(
        self, buffer: "memoryview | mmap.mmap", folder: str = "", path: Path | None = None
    ) -> None:
        self.buffer, self.folder, self.path = memoryview(buffer), folder, path
        self.tail = bytes(self.buffer[-TAIL.size :])
        if len(self.tail) < TAIL.size:
            raise ValueError("too short")
        size, checksum, mark = TAIL.unpack(self.tail)
        self.body = len(self.buffer) - TAIL.size - size  # bytes before the facts
        facts = bytes(self.buffer[max(0, self.body) : -TAIL.size])
        if mark != MARK or self.body < 0 or zlib.crc32(facts) != checksum:
            raise ValueError("the facts are damaged")
        self.facts: dict[str, Any] = json.loads(facts)
        if self.facts["format"] != FORMAT:
            raise ValueError("another format")
        self.characters = "".join(self.facts["characters"])
        self.digest: str = self.facts["digest"]
        self._places: int = self.facts["records"]  # where they begin
        rows = self._places + self.facts["places"]
        self.rows = np.frombuffer(self.buffer[rows : self.body], ROW)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return _Store, (bytes(self.buffer), self.folder)
        return _reopen, (self.path, self.folder, self.tail)

    def read(self, number: int) -> Utterance:
        record, place = self.start(number)
        row = self.rows[number]
        name, seconds, text = json.loads(bytes(self.buffer[record : row["record"]]))
        place_end = self._places + int(row["place"])
        audio, speaker = json.loads(bytes(self.buffer[self._places + place : place_end]))
        return Utterance(name, os.path.join(self.folder, audio), seconds, text, speaker)

    def start(self, number: int) -> tuple[int, int]:
        """Where an utterance's record and place begin, each in its part of the file."""
        if not number:
            return 0, 0
        before = self.rows[number - 1]
        return int(before["record"]) + len(SEPARATOR), int(before["place"]) + len(SEPARATOR)


class _Writer:
    """Writes an index to `output`, with `aside` to lay places down in; in memory it keeps rows."""

    def __init__(self, output: IO[bytes], aside: IO[bytes]) -> None:
        self._output, self._aside = output, aside
        self._bits: dict[str, int] = {}  # of the characters, in the order of their appearance
        self._digest = hashlib.blake2b(b"[", digest_size=16)
        self._checksum = self._records = self._places = 0
        self._columns = {
            name: array(code) for name, code in zip(ROW.names or (), CODES, strict=True)
        }

    @property
    def hashes(self) -> Hashes:
        """Of the ids so far, (N,)."""
        return np.array(self._columns["hash"], dtype=np.uint64)

    def add(self, utterance: Utterance) -> None:
        text = normalize(utterance.text)
        characters = 0
        for character in set(text):
            if character not in self._bits:
                self._bits[character] = _bit(len(self._bits))
            characters |= self._bits[character]
        separator = SEPARATOR if self._records else b""
        record = separator + json.dumps([utterance.id, utterance.seconds, text]).encode()
        self._digest.update(record)
        self._records += len(record)
        self._put(record)
        place = json.dumps([utterance.audio, utterance.speaker]).encode()
        self._places += self._aside.write(separator + place)
        row: tuple[Any, ...] = (
            hash_id(utterance.id),
            utterance.seconds,
            characters,
            self._records,
            self._places,
            len(text),
            ctc_frames_needed(text),
        )
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def finish(self, **facts: object) -> None:
        self._aside.seek(0)
        while places := self._aside.read(READ_BYTES):
            self._put(places)
        rows = np.empty(len(self._columns["hash"]), ROW)
        for name, column in self._columns.items():
            rows[name] = column
        self._put(rows.tobytes())
        self._digest.update(b"]")
        facts |= {
            "format": FORMAT,
            "records": self._records,  # bytes
            "places": self._places,
            "characters": list(self._bits),
            "digest": self._digest.hexdigest(),
            "checksum": self._checksum,
        }
        data = json.dumps(facts).encode()
        self._output.write(data + TAIL.pack(len(data), zlib.crc32(data), MARK))

    def _put(self, data: bytes) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        self._output.write(data)


def _index_manifest(
    output: IO[bytes], aside: IO[bytes], path: Path, advance: Callable[[int], object]
) -> None:
    times = _times(path)
    settled = times and time.time() - max(times[1:]) / 1e9 > UNSETTLED
    contents = hashlib.blake2b(digest_size=16)
    heard = told = 0

    def hear(line: bytes) -> None:
        nonlocal heard, told
        contents.update(line)
        heard += len(line)
        if heard - told >= TOLD_BYTES:
            advance(heard - told)
            told = heard

    writer = _Writer(output, aside)
    try:
        for utterance in parse_manifest(path, "", frozenset(), hear):
            writer.add(utterance)
    except DataError:
        _check_duplicate_ids(path, writer.hashes)  # an id that occurs twice before this error
        raise
    _check_duplicate_ids(path, writer.hashes)
    if told:
        advance(heard - told)
    writer.finish(manifest=contents.hexdigest(), times=times if settled else None)


def _check_duplicate_ids(path: Path, hashes: Hashes) -> None:
    """Raise DataError where two utterances of a manifest have the same id, if hashes make one fear."""
    hashes = np.sort(hashes)
    twins = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if twins:
        for _ in parse_manifest(path, "", twins):
            pass


def _is_of(store: _Store, path: Path) -> bool:
    """Whether an index is that of the manifest as it is now."""
    times: list[int] | None = store.facts["times"]
    if times is not None and times == _times(path):
        return True
    try:
        with path.open("rb") as file:
            contents = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except OSError:
        return False
    return bool(contents.hexdigest() == store.facts["manifest"])


def _times(path: Path) -> list[int] | None:
    """A file's size, and when its contents and its entry were changed, in ns; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _open(file: Path, folder: str) -> _Store | None:
    """The index in a file, of recordings relative to `folder`; None where there is no sound one."""
    try:
        with file.open("rb") as source:
            mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
            store = _Store(mapped, folder, file)
            # Read, not mapped: so much of the file would count as this process's memory.
            left, checksum = store.body, 0
            while left and (data := source.read(min(left, READ_BYTES))):
                left, checksum = left - len(data), zlib.crc32(data, checksum)
    except (OSError, ValueError):
        return None
    return store if checksum == store.facts["checksum"] else None


def _reopen(file: Path, folder: str, tail: bytes) -> _Store:
    """What another process has opened."""
    store = _open(file, folder)
    if store is None or store.tail != tail:
        raise DataError(f"{file} was replaced while a training began with it; start it again.")
    return store


def _name_in_cache(path: Path) -> Path:
    """Where the index of a manifest is that has none beside it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=8).hexdigest()
    return Path(cache) / "asr" / f"{name}-{path.name}.index"


def _bit(number: int) -> int:
    """That of the manifest's character `number`: one each, and one for all from the 64th on."""
    return 1 << min(number, 63)
