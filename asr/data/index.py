"""Indexed manifests: planning reads columns of numbers, and utterances are read when needed.

    manifest --open_index--> Index --select_trainable--> Index of trainable utterances, and rejects
    Index.seconds, .hashes, .symbols: columns (N,); Index[i]: an Utterance with normalized text

The index of a manifest is a file beside it that is written once and mapped into memory: a million
utterances are planned in less than a second, and all processes share the same pages. It is a
snapshot, so later changes of the manifest do not affect a training run that has begun. The file
contains:

    records     [id, seconds, text], ...   JSON of all utterances
    places      [recording, speaker], ...  JSON of all utterances
    rows        (N,) of `ROW`
    facts       JSON: size of each part, hash of the manifest, checksum of all parts above
    tail        size of the facts and their own checksum
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
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from asr.data.manifest import Utterance, parse_manifest
from asr.data.planning import Hashes, Indices, hash_id
from asr.errors import DataError, FileError
from asr.files import FilePath, read_lines, remove_leftovers, write_atomically
from asr.text import min_ctc_frames, normalize

# Increase the first entry when the layout of the file or the normalization of a line changes. The
# second entry is the version of Python's Unicode data, which normalization depends on.
FORMAT = [1, unicodedata.unidata_version]

ROW = np.dtype(
    [
        ("hash", "<u8"),  # `hash_id` of the utterance's id
        ("seconds", "<f8"),
        ("characters", "<u8"),  # a bit for each of the manifest's characters, see `_bit`
        ("record", "<i8"),  # offset at which the record ends
        ("place", "<i8"),  # offset at which the place ends
        ("symbols", "<i4"),
        ("frames_needed", "<i4"),  # minimum number of encoder frames that CTC needs
    ]
)
# The layout of `ROW`, with which rows are written one at a time.
ROW_STRUCT = struct.Struct("<QdQqqii")
TAIL = struct.Struct("<QII")  # size of the facts in bytes, their checksum, MARK
MARK = 0x58646E49
SEPARATOR = b", "
# Number of bytes that are read at a time.
READ_BYTES = 1 << 20
# Progress is reported each time this many bytes were read; a small manifest reports none.
PROGRESS_BYTES = 1 << 22
# A temporary file that is older than this belongs to a process that was killed.
LEFTOVER_SECONDS = 3600.0
# A file that was changed within this many seconds may change again without a new time stamp.
SETTLE_SECONDS = 2.0


class Index(Sequence[Utterance]):
    """A sequence of utterances with normalized texts, which are read when they are accessed.

    `index[i]` is an Utterance and a slice is another Index. `open_index` and `index_utterances`
    create it. The index of a manifest is pickled as the path of its file.
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
        """The utterances for which `chosen` (N,) is true."""
        return Index(self._store, self._indices[chosen])

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Length of each recording in seconds, (N,)."""
        return self._column("seconds")

    @cached_property
    def hashes(self) -> Hashes:
        """`hash_id` of each id, (N,)."""
        return self._column("hash")

    @cached_property
    def symbols(self) -> Indices:
        """Number of characters of each text, (N,)."""
        return self._column("symbols").astype(np.int64)

    @cached_property
    def frames_needed(self) -> Indices:
        """Minimum number of encoder frames in which CTC can emit each text, (N,)."""
        return self._column("frames_needed").astype(np.int64)

    @property
    def characters(self) -> str:
        """The distinct characters of all texts in the file, including those not selected here."""
        return self._store.characters

    def may_hold_unknown(self, known: frozenset[str]) -> npt.NDArray[np.bool_]:
        """Whether each text may hold characters that are not `known`, (N,).

        False is certain. True may be wrong if the texts of the file have more than 64 characters.
        """
        unknown = 0
        for number, character in enumerate(self.characters):
            unknown |= 0 if character in known else _bit(number)
        found: npt.NDArray[np.bool_] = (self._column("characters") & np.uint64(unknown)) != 0
        return found

    def digest(self) -> str:
        """A hash of all ids, seconds and texts in order; independent of how they are stored."""
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
        return self._store.rows[name][self._indices]


def index_utterances(utterances: Iterable[Utterance]) -> Index:
    """Index utterances that are in memory, without checking for duplicate ids."""
    output = BytesIO()
    writer = _Writer(output, BytesIO())
    for utterance in utterances:
        writer.add(utterance)
    writer.finish()
    return Index(_Store(output.getbuffer()))


def open_index(manifest: FilePath, on_progress: Callable[[int], object] = lambda _: None) -> Index:
    """Open the index of a JSONL manifest, and build it if it is missing, damaged or out of date.

    The index is stored beside the manifest as NAME.index. If that file cannot be written, it is
    stored in the user's cache folder; if that fails too, it is kept in memory.

    Args:
        manifest: The manifest, in the format of `read_manifest`.
        on_progress: Called with the number of bytes read since the last call, while the index of a
            large manifest is built.

    Returns:
        The utterances of the manifest in their order, with normalized texts.

    Raises:
        DataError: If the manifest is invalid, with the messages of `read_manifest`.

    Example:
        >>> write_manifest("train.jsonl", [Utterance("u1", "u1.wav", 1.5, "Hello,  world")])
        >>> open_index("train.jsonl")[0].text
        'hello, world'
    """
    path = Path(manifest)
    # Raises if there is no such file, before its folder is created.
    next(read_lines(path, DataError), None)
    folder = str(path.parent)
    files = [path.with_name(f"{path.name}.index"), _name_in_cache(path)]
    for file in files:
        if (store := _open(file, folder)) and _is_current(store, path):
            return Index(store)
    for file in files:

        def write(output: IO[bytes], beside: Path = file.parent) -> None:
            with tempfile.TemporaryFile(dir=beside) as aside:
                _index_manifest(output, aside, path, on_progress)

        remove_leftovers(file.parent, file.name, older_than=LEFTOVER_SECONDS)
        with contextlib.suppress(FileError):
            write_atomically(file, write)
            if store := _open(file, folder):
                return Index(store)
    output = BytesIO()
    _index_manifest(output, BytesIO(), path, on_progress)
    return Index(_Store(output.getbuffer(), folder))


class _Store:
    """The bytes of an index and their contents. Raises ValueError if its facts are damaged."""

    def __init__(
        self, buffer: "memoryview | mmap.mmap", folder: str = "", path: Path | None = None
    ) -> None:
        self.buffer, self.folder, self.path = memoryview(buffer), folder, path
        self.tail = bytes(self.buffer[-TAIL.size :])
        if len(self.tail) < TAIL.size:
            raise ValueError("too short")
        size, checksum, mark = TAIL.unpack(self.tail)
        self.body = len(self.buffer) - TAIL.size - size  # number of bytes before the facts
        facts = bytes(self.buffer[max(0, self.body) : -TAIL.size])
        if mark != MARK or self.body < 0 or zlib.crc32(facts) != checksum:
            raise ValueError("the facts are damaged")
        self.facts: dict[str, Any] = json.loads(facts)
        if self.facts["format"] != FORMAT:
            raise ValueError("another format")
        self.characters = "".join(self.facts["characters"])
        self.digest: str = self.facts["digest"]
        self._places: int = self.facts["records"]  # offset at which the places begin
        rows = self._places + self.facts["places"]
        self.rows = np.frombuffer(self.buffer[rows : self.body], ROW)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return _Store, (bytes(self.buffer), self.folder)
        return _reopen, (self.path, self.folder, self.tail)

    def read(self, number: int) -> Utterance:
        """Read the utterance of a row."""
        record, place = self.start(number)
        row = self.rows[number]
        name, seconds, text = json.loads(bytes(self.buffer[record : row["record"]]))
        place_end = self._places + int(row["place"])
        audio, speaker = json.loads(bytes(self.buffer[self._places + place : place_end]))
        return Utterance(name, os.path.join(self.folder, audio), seconds, text, speaker)

    def start(self, number: int) -> tuple[int, int]:
        """Offsets at which a row's record and place begin, each within its part of the file."""
        if not number:
            return 0, 0
        before = self.rows[number - 1]
        return int(before["record"]) + len(SEPARATOR), int(before["place"]) + len(SEPARATOR)


class _Writer:
    """Writes an index to `output`; places are collected in the file `aside`, rows in memory."""

    def __init__(self, output: IO[bytes], aside: IO[bytes]) -> None:
        self._output, self._aside = output, aside
        self._bits: dict[str, int] = {}  # bit of each character, in order of appearance
        self._digest = hashlib.blake2b(b"[", digest_size=16)
        self._checksum = self._records = self._places = 0
        self._rows = bytearray()

    @property
    def hashes(self) -> Hashes:
        """Hashes of the ids added so far, (N,)."""
        return np.frombuffer(self._rows, ROW)["hash"].copy()

    def add(self, utterance: Utterance) -> None:
        """Append an utterance."""
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
        self._rows += ROW_STRUCT.pack(
            hash_id(utterance.id),
            utterance.seconds,
            characters,
            self._records,
            self._places,
            len(text),
            min_ctc_frames(text),
        )

    def finish(self, **facts: object) -> None:
        """Write places, rows, facts (with the additional `facts`) and tail."""
        self._aside.seek(0)
        while places := self._aside.read(READ_BYTES):
            self._put(places)
        self._put(self._rows)
        self._digest.update(b"]")
        facts |= {
            "format": FORMAT,
            "records": self._records,  # size in bytes
            "places": self._places,
            "characters": list(self._bits),
            "digest": self._digest.hexdigest(),
            "checksum": self._checksum,
        }
        data = json.dumps(facts).encode()
        self._output.write(data + TAIL.pack(len(data), zlib.crc32(data), MARK))

    def _put(self, data: bytes | bytearray) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        self._output.write(data)


def _index_manifest(
    output: IO[bytes], aside: IO[bytes], path: Path, on_progress: Callable[[int], object]
) -> None:
    """Write the index of a manifest to `output`; see `_Writer` for `aside`."""
    times = _times(path)
    settled = times and time.time() - max(times[1:]) / 1e9 > SETTLE_SECONDS
    contents = hashlib.blake2b(digest_size=16)
    read = reported = 0  # bytes

    def on_line(line: bytes) -> None:
        nonlocal read, reported
        contents.update(line)
        read += len(line)
        if read - reported >= PROGRESS_BYTES:
            on_progress(read - reported)
            reported = read

    writer = _Writer(output, aside)
    try:
        for utterance in parse_manifest(path, "", frozenset(), on_line):
            writer.add(utterance)
    except DataError:
        _check_duplicate_ids(path, writer.hashes)  # a duplicate before this line is reported first
        raise
    _check_duplicate_ids(path, writer.hashes)
    if reported:
        on_progress(read - reported)
    writer.finish(manifest=contents.hexdigest(), times=times if settled else None)


def _check_duplicate_ids(path: Path, hashes: Hashes) -> None:
    """Raise DataError if an id occurs twice in a manifest, given the hashes of all of its ids."""
    hashes = np.sort(hashes)
    duplicates = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if duplicates:  # reading again compares the ids themselves, because hashes can collide
        for _ in parse_manifest(path, "", duplicates):
            pass


def _is_current(store: _Store, path: Path) -> bool:
    """Whether an index matches the current contents of the manifest."""
    if store.facts["times"] and store.facts["times"] == _times(path):
        return True
    try:
        with path.open("rb") as file:
            contents = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    except OSError:
        return False
    return bool(contents.hexdigest() == store.facts["manifest"])


def _times(path: Path) -> list[int] | None:
    """A file's size in bytes and its mtime and ctime in ns; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _open(file: Path, folder: str) -> _Store | None:
    """Open an index whose recordings are relative to `folder`; None if missing or damaged."""
    try:
        with file.open("rb") as source:
            mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
            store = _Store(mapped, folder, file)
            # Reading through the mapping would count the whole file as this process's memory.
            left, checksum = store.body, 0
            while left and (data := source.read(min(left, READ_BYTES))):
                left, checksum = left - len(data), zlib.crc32(data, checksum)
    except (OSError, ValueError):
        return None
    return store if checksum == store.facts["checksum"] else None


def _reopen(file: Path, folder: str, tail: bytes) -> _Store:
    """Open an index that another process has opened, when it is unpickled."""
    store = _open(file, folder)
    if store is None or store.tail != tail:
        raise DataError(f"{file} was replaced while training was starting; start training again")
    return store


def _name_in_cache(path: Path) -> Path:
    """Path of a manifest's index in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=8).hexdigest()
    return Path(cache) / "asr" / f"{name}-{path.name}.index"


def _bit(number: int) -> int:
    """The bit of the manifest's character `number`; all from the 64th character on share one."""
    return 1 << min(number, 63)
