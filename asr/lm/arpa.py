"""ARPA files of n-gram models: reading in blocks, and writing with nine digits.

The format follows SRILM's ngram-format(5). Errors name the line of the file.
"""

import io
import itertools
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr.compiled import compiled
from asr.errors import LanguageError
from asr.lm.ngrams import (
    BEGIN_WORD,
    END_WORD,
    HUGE,
    LN10,
    MOST_ORDER,
    UNKNOWN_WORD,
    Bytes,
    Float32,
    Int32,
    Integer,
    NGrams,
    NGramTable,
    backoff_of,
    build,
    level_starts,
    log_prob_of,
)

_BLOCK_BYTES = 1 << 22
_LINE_BYTES = 1 << 20  # longest line
_COMMENT_BYTES = 1 << 20  # longest text before the line \data\
_BLANK_LINES = re.compile(rb"[ \t\r\n]*\n")
_MOST_NODES = 2**31 - 2  # node numbers are int32
_TAB, _LINE_FEED, _RETURN, _SPACE, _BACKSLASH = b"\t\n\r \\"
_PLUS, _MINUS, _POINT, _ZERO, _NINE, _SMALL_E, _LARGE_E = b"+-.09eE"

# Why `_parse_ngrams` stopped: the end of the block, a line that is not an n-gram, or an error.
_END_OF_BLOCK, _OTHER_LINE = 0, 1
_NOT_A_NUMBER, _POSITIVE, _FIELDS, _UNKNOWN, _REPEATED, _TOO_MANY, _BACKED_OFF = range(2, 9)


def read_arpa(stream: io.BufferedIOBase, name: str) -> tuple[int, NGrams, Bytes]:
    """Read an ARPA file.

    Args:
        stream: The uncompressed text.
        name: Name of the file in error messages.

    Returns:
        The order, the n-grams, and the words: UTF-8, in id order, joined by line feeds. <unk> comes
        first.

    Raises:
        LanguageError: If the file is damaged or in another format.
    """
    return _Reader(stream, name).read()


def format_arpa(order: int, ngrams: NGrams, spelled: Bytes) -> Iterator[bytes]:
    """Format a model as ARPA, in blocks of lines; the arguments are the results of `read_arpa`.

    Numbers have nine digits, so reading them gives the same float32 values.
    """
    starts = level_starts(ngrams, order)
    yield b"\\data\\\n"
    for length, count in enumerate(np.diff(starts), start=1):
        yield f"ngram {length}={count}\n".encode()
    line_feeds = np.flatnonzero(spelled == _LINE_FEED)
    word_starts = np.concatenate(([0], line_feeds + 1, [len(spelled) + 1]))
    room = 64 + order * int(np.diff(word_starts).max())  # for the longest line
    out = np.empty(_BLOCK_BYTES + room, np.uint8)
    for length in range(1, order + 1):
        yield f"\n\\{length}-grams:\n".encode()
        path = np.array(starts[:length], np.int32)
        while path[-1] < starts[length]:
            used = _print_ngrams(ngrams, path, starts[length], spelled, word_starts, out, room)
            yield out[:used].tobytes()
    yield b"\n\\end\\\n"


class _Spellings(NamedTuple):
    """The words in order of appearance, and a hash table with open addressing to find them."""

    slots: Int32  # (S,) index of the word + 1, or 0 if the slot is free; S is a power of two
    starts: NDArray[np.int64]  # (words + 1,) where each word begins in `spelled`
    ids: Int32  # (words,) id of each word
    spelled: Bytes  # all words, each followed by a line feed


@compiled
def _find_slot(spellings: _Spellings, block: Bytes, start: int, end: int) -> int:
    """The slot of the word block[start:end], or the free slot to insert it into."""
    mask = len(spellings.slots) - 1
    code = 1469598103934665603  # FNV-1a, in wrapping 64-bit integers
    for index in range(start, end):
        code = (code ^ block[index]) * 1099511628211
    slot = (code ^ (code >> 32)) & mask
    while spellings.slots[slot]:
        at = spellings.starts[spellings.slots[slot] - 1]
        if spellings.starts[spellings.slots[slot]] - at == end - start + 1:
            index = start
            while index < end and spellings.spelled[at + index - start] == block[index]:
                index += 1
            if index == end:
                break
        slot = (slot + 1) & mask
    return slot


@compiled
def _parse_number(block: Bytes, start: int, end: int) -> float:
    """The decimal number block[start:end], or NaN if it is not a number."""
    index = start
    negative = block[index] == _MINUS
    if negative or block[index] == _PLUS:
        index += 1
    mantissa, exponent, digits, after_point = 0, 0, 0, 0
    while index < end:
        digit = block[index] - _ZERO
        if 0 <= digit <= 9:
            digits += 1
            if mantissa < 100_000_000_000_000_000:
                mantissa = mantissa * 10 + digit
                exponent -= after_point
            else:
                exponent += 1 - after_point
        elif block[index] == _POINT and not after_point:
            after_point = 1
        else:
            break
        index += 1
    if index < end and digits and (block[index] == _SMALL_E or block[index] == _LARGE_E):
        index += 1
        sign = -1 if index < end and block[index] == _MINUS else 1
        if index < end and (block[index] == _MINUS or block[index] == _PLUS):
            index += 1
        if index == end:
            return np.nan
        power = 0
        while index < end and _ZERO <= block[index] <= _NINE and power < 1000:
            power = power * 10 + block[index] - _ZERO
            index += 1
        exponent += sign * power
    if index < end or not digits:
        return np.nan
    value = mantissa * 10.0**exponent if exponent >= 0 else mantissa / 10.0**-exponent
    return -value if negative else value


@compiled
def _next_field(block: Bytes, start: int, end: int) -> tuple[int, int]:
    """Start and end of the first field of block[start:end]; they are equal if there is none."""
    while start < end and block[start] in (_SPACE, _TAB, _RETURN):
        start += 1
    stop = start
    while stop < end and block[stop] not in (_SPACE, _TAB, _RETURN):
        stop += 1
    return start, stop


@compiled
def _parse_ngrams(
    block: Bytes, begin: int, spellings: _Spellings, words: Int32, log_prob: Float32,
    backoff: Float32, row: int,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """Parse the lines of block[begin:] that are n-grams into the rows from `row` on.

    The words of unigrams are added to `spellings`. Returns the start of the line at which parsing
    stopped, the next free row, the reason, and the start and end of the field that caused it.
    """
    order = words.shape[1]
    while True:
        end = begin
        while end < len(block) and block[end] != _LINE_FEED:
            end += 1
        if end == len(block):
            return begin, row, _END_OF_BLOCK, begin, end
        start, stop = _next_field(block, begin, end)
        if start == stop or block[start] == _BACKSLASH:
            return begin, row, _OTHER_LINE, start, stop
        if row == len(log_prob):
            return begin, row, _TOO_MANY, start, stop
        value = _parse_number(block, start, stop) * LN10
        if not abs(value) < HUGE:
            return begin, row, _NOT_A_NUMBER, start, stop
        if value > 0:
            return begin, row, _POSITIVE, start, stop
        log_prob[row] = value
        for position in range(order):
            start, stop = _next_field(block, stop, end)
            if start == stop:
                return begin, row, _FIELDS, start, stop
            slot = _find_slot(spellings, block, start, stop)
            entry = spellings.slots[slot] - 1
            if order > 1:
                if entry < 0:
                    return begin, row, _UNKNOWN, start, stop
                words[row, position] = spellings.ids[entry]
            else:
                if entry >= 0:
                    return begin, row, _REPEATED, start, stop
                words[row, 0] = row
                at = spellings.starts[row]
                spellings.slots[slot] = row + 1
                spellings.starts[row + 1] = at + stop - start + 1
                for index in range(start, stop):  # a slice assignment would take seconds to compile
                    spellings.spelled[at + index - start] = block[index]
                spellings.spelled[at + stop - start] = _LINE_FEED
        start, stop = _next_field(block, stop, end)
        if start < stop:
            value = _parse_number(block, start, stop) * LN10
            if not abs(value) < HUGE:
                return begin, row, _NOT_A_NUMBER, start, stop
            if len(backoff):
                backoff[row] = value
            elif value != 0:
                return begin, row, _BACKED_OFF, start, stop
            start, stop = _next_field(block, stop, end)
            if start < stop:
                return begin, row, _FIELDS, start, stop
        elif len(backoff):
            backoff[row] = 0
        begin = end + 1
        row += 1


class _Reader:
    """Reads an ARPA file in blocks, and counts lines for error messages."""

    def __init__(self, stream: io.BufferedIOBase, name: str) -> None:
        self.stream = stream
        self.name = name
        self.block = b""
        self.at = 0  # start of the next line in the block
        self.line = 0  # number of lines read
        self.has_begun = False  # whether the line \data\ was read
        # For each order, the rows that follow blank lines or a heading, with their line numbers.
        self.anchors: list[list[tuple[int, int]]] = []

    def read(self) -> tuple[int, NGrams, Bytes]:
        counts = self._read_counts()
        slots = np.zeros(1 << (2 * counts[0]).bit_length(), np.int32)
        starts, ids = np.zeros(counts[0] + 1, np.int64), np.zeros(counts[0], np.int32)
        self.spellings = _Spellings(slots, starts, ids, np.zeros(0, np.uint8))
        unigrams = self._read_table(1, counts)
        spelled, words = self._number_words()
        unigrams.words[:, 0] = self.spellings.ids
        tables = itertools.chain([unigrams], self._read_higher_orders(counts))
        order, ngrams = build(tables, words, self._locate)
        return order, ngrams, np.frombuffer(bytearray(spelled), np.uint8)

    def _locate(self, order: int, row: int) -> str:
        anchors = self.anchors[order - 1]
        first_row, line = anchors[bisect_right(anchors, (row, sys.maxsize)) - 1]
        return f"line {line + row - first_row} of {self.name}"

    def _error(self, problem: str) -> LanguageError:
        return LanguageError(f"line {self.line} of {self.name} {problem}")

    def _refill(self) -> bool:
        """Read more bytes after the rest of the block; False at the end of the file."""
        rest = self.block[self.at :]
        if len(rest) > _LINE_BYTES:
            if not self.has_begun:
                raise self._foreign_error()
            self.line += 1
            raise self._error(
                f"is longer than {_LINE_BYTES} bytes; it is damaged, download it again"
            )
        more = self.stream.read(_BLOCK_BYTES)
        if not more and rest and not rest.endswith(b"\n"):
            more = b"\n"
        self.block, self.at = rest + more, 0
        return bool(more)

    def _next_line(self) -> str | None:
        """The next line without surrounding white space; None at the end of the file."""
        while (end := self.block.find(b"\n", self.at)) < 0:
            if not self._refill():
                return None
        line = self.block[self.at : end]
        self.at = end + 1
        self.line += 1
        return line.decode("utf-8-sig", errors="replace").strip()

    def _next_content(self) -> str:
        """The next line that is not blank. Raises LanguageError at the end of the file."""
        self._skip_blank_lines()
        while (line := self._next_line()) == "":
            self._skip_blank_lines()
        if line is None:
            raise self._truncation_error()
        return line

    def _skip_blank_lines(self) -> None:
        """Skip the blank lines that come next in the block."""
        if match := _BLANK_LINES.match(self.block, self.at):
            self.line += self.block.count(b"\n", self.at, match.end())
            self.at = match.end()

    def _truncation_error(self) -> LanguageError:
        return LanguageError(
            f"{self.name} is truncated (it ends after line {self.line} without \\end\\); "
            "download it again"
        )

    def _foreign_error(self) -> LanguageError:
        return LanguageError(
            f"{self.name} is not a language model (it has no \\data\\ line as ARPA files "
            "do, and is not a binary of asr); use another file"
        )

    def _read_counts(self) -> list[int]:
        """The number of n-grams of each order according to the header."""
        skipped = 0
        while (line := self._next_line()) != "\\data\\":
            skipped += 1 + len(line or "")
            if not self.line:
                raise LanguageError(f"{self.name} is empty; download or create it again")
            if line is None or skipped > _COMMENT_BYTES:
                raise self._foreign_error()
        self.has_begun = True
        counts: list[int] = []
        pattern = re.compile(r"ngram\s+(\d{1,18})\s*=\s*(\d{1,18})")
        while match := pattern.fullmatch(line := self._next_content()):
            counts.append(int(match[2]))
            if len(counts) > MOST_ORDER:
                raise self._error(
                    f"counts {match[1]}-grams; at most {MOST_ORDER}-grams can be read"
                )
            if int(match[1]) != len(counts):
                raise self._error(f"counts {match[1]}-grams, but {len(counts)}-grams come next")
        self._expect("\\1-grams:", line)
        if not counts or sum(counts) > _MOST_NODES:
            raise self._error(
                f"ends a header of {sum(counts)} n-grams; only 1 to {_MOST_NODES} can be read"
            )
        return counts

    def _expect(self, expected: str, line: str) -> None:
        if line != expected:
            raise self._error(f"is {line[:60]!r}, but '{expected}' is expected")

    def _read_higher_orders(self, counts: list[int]) -> Iterator[NGramTable]:
        for order in range(2, len(counts) + 1):
            self._expect(f"\\{order}-grams:", self._next_content())
            yield self._read_table(order, counts)
        self._expect("\\end\\", self._next_content())

    def _read_table(self, order: int, counts: list[int]) -> NGramTable:
        """The n-grams of one order, up to the next heading."""
        count = counts[order - 1]
        words = np.empty((count, order), np.int32)
        log_prob = np.empty(count, np.float32)
        backoff = np.empty(count if order < len(counts) else 0, np.float32)
        row = 0
        self.anchors.append([(0, self.line + 1)])
        while True:
            begin, first_row = self.at, row
            if order == 1:
                self._make_room(row, len(self.block) - begin)
            self.at, row, status, start, stop = _parse_ngrams(
                np.frombuffer(self.block, np.uint8), begin, self.spellings, words, log_prob,
                backoff, row,
            )  # fmt: skip
            if order == 1:
                self._check_encoding(self.block[begin : self.at])
            self.line += row - first_row
            if status == _END_OF_BLOCK:
                if not self._refill():
                    raise self._truncation_error()
            elif status != _OTHER_LINE:
                self.line += 1
                raise self._parse_error(status, order, count, self.block[start:stop])
            elif start < stop:
                break
            else:
                self._skip_blank_lines()
                if self.anchors[-1][-1][0] == row:
                    self.anchors[-1].pop()
                self.anchors[-1].append((row, self.line + 1))
        if row < count:
            self.line += 1
            raise self._error(f"ends the {order}-grams after {row}, but the header counts {count}")
        return NGramTable(words, log_prob, backoff if len(backoff) else None)

    def _make_room(self, entries: int, more_bytes: int) -> None:
        """Make room for `more_bytes` of further words after `entries` words."""
        used = int(self.spellings.starts[entries])
        if used + more_bytes > len(self.spellings.spelled):
            spelled = np.empty(2 * (used + more_bytes), np.uint8)
            spelled[:used] = self.spellings.spelled[:used]
            self.spellings = self.spellings._replace(spelled=spelled)

    def _check_encoding(self, lines: bytes) -> None:
        """Check that unigrams are UTF-8; other orders can only contain words of unigrams."""
        try:
            lines.decode()
        except UnicodeDecodeError as error:
            self.line += lines.count(b"\n", 0, error.start) + 1
            raise self._error("is not UTF-8; convert the file") from None

    def _parse_error(self, status: int, order: int, count: int, field: bytes) -> LanguageError:
        text = repr(field.decode(errors="replace")[:60])
        problems = {
            _NOT_A_NUMBER: f"contains {text}, but a logarithm is expected",
            _POSITIVE: f"contains the log-probability {text}, which is above 0",
            _FIELDS: f"must contain a log-probability, {order} words and at most one back-off",
            _UNKNOWN: f"contains the word {text}, which is not among the unigrams",
            _REPEATED: f"repeats the unigram {text}; remove one",
            _TOO_MANY: f"is one {order}-gram more than the {count} that the header counts",
            _BACKED_OFF: f"contains the back-off {text}, but {order}-grams are the highest order",
        }
        return self._error(problems[status])

    def _number_words(self) -> tuple[bytes, int]:
        """Set `spellings.ids`; return the words in id order, as read, and their number."""
        ids = self.spellings.ids
        spelled = self.spellings.spelled[: self.spellings.starts[-1]].tobytes().decode()
        words = spelled.split("\n")[:-1]
        for needed in (BEGIN_WORD, END_WORD):
            if needed not in words:
                raise LanguageError(
                    f"{self.name} has no unigram {needed}; use a model with sentence boundaries"
                )
        unknown = [i for i, word in enumerate(words) if word in (UNKNOWN_WORD, "<UNK>")]
        if len(unknown) > 1:
            raise LanguageError(f"{self.name} has two unigrams for unknown words; remove one")
        ids[:] = np.arange(1, len(ids) + 1)
        if unknown:
            ids[unknown[0]] = 0
            ids[unknown[0] + 1 :] -= 1
            del words[unknown[0]]
        return "\n".join([UNKNOWN_WORD, *words]).encode(), len(words) + 1


@compiled
def _print_number(out: Bytes, at: Integer, value: float) -> Integer:
    """Print a number into out[at:], with nine digits or 17 decimals; returns its end."""
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    decimals = 17
    if value > 1e-9:
        decimals = 8 - int(np.floor(np.log10(value)))
    digits = int(np.rint(value * 10.0**decimals))
    while decimals > 0 and digits % 10 == 0:
        digits //= 10
        decimals -= 1
    scale = 10**decimals
    whole = 1
    while whole * 10 * scale <= digits:
        whole *= 10
    scale *= whole
    while scale:
        out[at] = _ZERO + digits // scale % 10
        at += 1
        if decimals and scale == 10**decimals:
            out[at] = _POINT
            at += 1
        scale //= 10
    return at


@compiled
def _print_ngrams(
    ngrams: NGrams, path: Int32, stop: int, spelled: Bytes, word_starts: NDArray[np.int64],
    out: Bytes, room: int,
) -> int:  # fmt: skip
    """Print n-grams into `out` until node `stop`, or until less than `room` is left.

    `path` (order,) holds the nodes from a unigram to the next n-gram, and is advanced. Returns the
    number of bytes written.
    """
    at: Integer = np.int64(0)
    while path[-1] < stop and at + room <= len(out):
        node = np.int64(path[-1])
        for index in range(len(path) - 2, -1, -1):
            while ngrams.first_child[path[index] + 1] <= path[index + 1]:
                path[index] += 1
        at = _print_number(out, at, log_prob_of(ngrams, node) / LN10)
        for index in range(len(path)):
            out[at] = _SPACE if index else _TAB
            at += 1
            word = ngrams.word[path[index]]
            for position in range(word_starts[word], word_starts[word + 1] - 1):
                out[at] = spelled[position]
                at += 1
        if node < len(ngrams.first_child) - 1 and backoff_of(ngrams, node) != 0:
            out[at] = _TAB
            at = _print_number(out, at + 1, backoff_of(ngrams, node) / LN10)
        out[at] = _LINE_FEED
        at += 1
        path[-1] += 1
    return int(at)
