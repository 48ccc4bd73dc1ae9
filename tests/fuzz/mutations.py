"""Damage to bytes, to text and to plain data, each a pure function of a random generator."""

import copy
import math
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

HEADER_BYTES = 128  # a header is damaged as often as all that follows it
EXTREMES = (0, 1, -1, 2, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536)
EXTREMES += (2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2, -(2**31), 2**62, 2**63 - 1, -(2**63), 10**9)
NUMBERS = (
    "0 -0 1 -1 2 3.5 0.1 1e-9 -1e9 1e9 1e300 1e999 -1e999 nan NaN inf -inf Infinity 1e-400 2147483648 "
    "9223372036854775808 99999999999999999999999 0x10 1_000 ١٢ ² 1,5 1.5.2 +3 .5 5. 1e 00012"
).split()
CONTROLS = ["\0", "\x07", "\x08", "\x1b[2J", "\x1b]0;x\x07", "\r", "\x0b", "\x0c", "\x85", "\u2028"]
CONTROLS += ["\u202e", "\u200b", "\ufeff", "\ufffd", "\ud800", "\x7f", "\x1a", "\t", " ", "\xa0"]
LETTERS = [
    "a",
    "Z",
    "'",
    '"',
    "é",
    "e\u0301",
    "İ",
    "ß",
    "й",
    "ً",
    "𝔘",
    "👩‍👩‍👧",
    "日",
    "-",
    "|",
    "\\",
    "/",
]
LETTERS += [
    ",",
    ";",
    ":",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<s>",
    "</s>",
    "<unk>",
    "#",
    "%",
    "$",
    "=",
    "~",
]
MOST_REPEATS = 50_000
MOST_BYTES = 1 << 20  # of a text: linear time is as it should be, though 5 MB may take 10 s


def damage_bytes(data: bytes, draw: Random, others: tuple[bytes, ...] = ()) -> bytes:
    """A binary file with one to four kinds of damage; `others` are valid files to splice in."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(_BYTE_MUTATIONS)(data, draw, others or (data,))
    return data


def damage_text(data: bytes, draw: Random, others: tuple[bytes, ...] = ()) -> bytes:
    """A text file with one to four kinds of damage, which may be in another encoding afterwards."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        if draw.random() < 0.15:
            data = damage_bytes(data, draw, others)
            continue
        text = data.decode("utf-8", "surrogateescape")
        text = draw.choice(_TEXT_MUTATIONS)(text, draw)
        data = text.encode("utf-8", "surrogatepass" if draw.random() < 0.5 else "replace")
    if draw.random() < 0.08:
        text = data.decode("utf-8", "replace")
        encoding = draw.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp1251", "utf-7"))
        data = text.encode(encoding, "replace")
    return data[:MOST_BYTES]


def damage_plain(value: Any, draw: Random) -> Any:
    """Plain data (dictionaries, lists, numbers, strings) with one to three of its values damaged."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_list_places(value))
        if not places:
            return random_value(draw)
        parent, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.12:
            del parent[key]
        elif kind < 0.2 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(draw.choice(places)[0]))
        elif kind < 0.25 and isinstance(parent, dict):
            parent[random_text(draw)] = parent.pop(key)
        elif kind < 0.35 and isinstance(parent[key], str):
            parent[key] = draw.choice(_TEXT_MUTATIONS)(parent[key], draw)
        elif kind < 0.45 and isinstance(parent[key], int | float):
            parent[key] = draw.choice((parent[key] * 1000, -parent[key], parent[key] + 1, 10**9))
        else:
            parent[key] = random_value(draw)
    return value


def random_value(draw: Random) -> Any:
    """A value of a type that JSON has, often an extreme one."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice((None, True, False))
    if kind == 1:
        return draw.choice(EXTREMES)
    if kind == 2:
        return draw.choice((0.0, -0.5, 1e300, 1e-300, math.inf, -math.inf, math.nan, 0.1))
    if kind == 3:
        return random_text(draw)
    if kind == 4:
        return [random_value(draw) for _ in range(draw.randrange(4))]
    if kind == 5:
        return {random_text(draw): random_value(draw) for _ in range(draw.randrange(3))}
    if kind == 6:
        nested: Any = draw.choice(([], {}, 1))
        for _ in range(draw.choice((3, 50, 400))):
            nested = [nested] if draw.random() < 0.5 else {"a": nested}
        return nested
    return draw.choice(([], {}, "", 10**30, "x" * 3_000))


def random_text(draw: Random) -> str:
    """A short text of letters, marks, numbers and control characters."""
    pools = (LETTERS, LETTERS, CONTROLS, NUMBERS)
    return "".join(draw.choice(draw.choice(pools)) for _ in range(draw.randrange(12)))


def random_number(draw: Random) -> str:
    """A number as text, often an extreme or a wrong one."""
    return draw.choice((draw.choice(NUMBERS), str(draw.choice(EXTREMES)), str(draw.gauss(0, 30))))


def _list_places(value: Any) -> "list[tuple[Any, Any]]":
    """Every (container, key) inside plain data."""
    places: list[tuple[Any, Any]] = []
    queue = [value]
    for container in queue:
        if isinstance(container, dict):
            keys: Any = list(container)
        elif isinstance(container, list):
            keys = range(len(container))
        else:
            continue
        places += [(container, key) for key in keys]
        queue += [container[key] for key in keys]
    return places


# Bytes: each takes (data, draw, others).

Others = tuple[bytes, ...]


def _position(data: bytes, draw: Random) -> int:
    most = min(len(data), HEADER_BYTES) if draw.random() < 0.5 else len(data)
    return draw.randrange(most + 1)


def _block(data: bytes, draw: Random) -> tuple[int, int]:
    start = _position(data, draw)
    return start, min(len(data), start + draw.choice((1, 2, 4, 16, 100, 1_000, 10_000)))


def _flip_bits(data: bytes, draw: Random, _: Others) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if data else 0):
        damaged[min(_position(data, draw), len(data) - 1)] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _set_integer(data: bytes, draw: Random, _: Others) -> bytes:
    """Write an extreme integer, of 1 to 8 bytes in either order, over the bytes at a position."""
    size = draw.choice((1, 2, 4, 4, 8))
    number = draw.choice(EXTREMES) % (1 << 8 * size)
    at = _position(data, draw)
    if draw.random() < 0.7:
        at &= ~1  # most fields of headers are aligned
    return data[:at] + number.to_bytes(size, draw.choice(("little", "big"))) + data[at + size :]


def _set_number(data: bytes, draw: Random, _: Others) -> bytes:
    at = _position(data, draw) & ~3
    number = draw.choice((math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-40, 0.0))
    return data[:at] + struct.pack(draw.choice(("<f", ">f", "<d")), number) + data[at + 4 :]


def _cut(data: bytes, draw: Random, _: Others) -> bytes:
    at = _position(data, draw)
    return data[:at] if draw.random() < 0.7 else data[at:]


def _remove_block(data: bytes, draw: Random, _: Others) -> bytes:
    start, end = _block(data, draw)
    return data[:start] + data[end:]


def _repeat_block(data: bytes, draw: Random, _: Others) -> bytes:
    start, end = _block(data, draw)
    return data[:end] + data[start:end] * draw.choice((1, 1, 2, 20)) + data[end:]


def _swap_blocks(data: bytes, draw: Random, _: Others) -> bytes:
    a, b, c, d = sorted(_position(data, draw) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _fill_block(data: bytes, draw: Random, _: Others) -> bytes:
    start, end = _block(data, draw)
    filling = draw.choice((b"\0", b"\xff", b"\x55", b"", b"A"))
    noise = filling * (end - start) if filling else draw.randbytes(end - start)
    return data[:start] + noise + data[end:]


def _insert_noise(data: bytes, draw: Random, _: Others) -> bytes:
    at = _position(data, draw)
    return data[:at] + draw.randbytes(draw.choice((1, 2, 3, 16, 500))) + data[at:]


def _splice(data: bytes, draw: Random, others: Others) -> bytes:
    """The beginning of one file and the end of another."""
    other = draw.choice(others)
    return data[: _position(data, draw)] + other[_position(other, draw) :]


def _append(data: bytes, draw: Random, others: Others) -> bytes:
    return draw.choice((data + draw.choice(others), draw.choice(others) + data))


def _replace_word(data: bytes, draw: Random, others: Others) -> bytes:
    """Replace a four-letter mark, such as the id of a chunk, by another one of the inputs."""
    marks = re.findall(rb"[ -~]{4}", data[:4096])
    theirs = re.findall(rb"[ -~]{4}", draw.choice(others)[:4096])
    if not marks or not theirs:
        return data
    return data.replace(draw.choice(marks), draw.choice(theirs), 1)


_BYTE_MUTATIONS: list[Callable[[bytes, Random, Others], bytes]] = [
    _flip_bits, _flip_bits, _set_integer, _set_integer, _set_integer, _set_number, _cut,
    _remove_block, _repeat_block, _swap_blocks, _fill_block, _insert_noise, _splice, _append,
    _replace_word,
]  # fmt: skip


# Text: each takes (text, draw).


def _change_lines(text: str, draw: Random) -> str:
    """Remove, repeat, swap or join lines."""
    lines = text.split("\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(5)
    if kind == 0:
        del lines[at : at + draw.choice((1, 1, 3, 100))]
    elif kind == 1:
        lines[at:at] = [lines[other]] * draw.choice((1, 1, 2, 50))
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at : at + 2] = [draw.choice(("", " ", "\t", "\r", "\0")).join(lines[at : at + 2])]
    else:
        lines[at] = draw.choice(("", " ", "\t", "#", "//", ";;", "%")) + lines[at]
    return "\n".join(lines)


def _change_number(text: str, draw: Random) -> str:
    return _replace_match(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text, draw, random_number(draw))


def _change_word(text: str, draw: Random) -> str:
    return _replace_match(r"\S+", text, draw, draw.choice(("", random_text(draw), "a b", "a")))


def _change_space(text: str, draw: Random) -> str:
    spaces = ("", " ", "  ", "\t", "\t\t", "\n", "\r\n", "\r", "\xa0", "\u3000", "\0")
    return _replace_match(r"\s+", text, draw, draw.choice(spaces))


def _change_sign(text: str, draw: Random) -> str:
    return _replace_match(r"[^\w\s]", text, draw, draw.choice(LETTERS + CONTROLS))


def _replace_match(pattern: str, text: str, draw: Random, new: str) -> str:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return text + new
    match = draw.choice(matches)
    return text[: match.start()] + new + text[match.end() :]


def _insert_text(text: str, draw: Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice((random_text(draw), *CONTROLS[:4])) + text[at:]


def _nest(text: str, draw: Random) -> str:
    at = draw.randrange(len(text) + 1)
    depth = draw.choice((10, 900, 1_100, MOST_REPEATS))
    return text[:at] + draw.choice(("[", '{"a":', "(", "{", "${", "'", '"')) * depth + text[at:]


def _lengthen(text: str, draw: Random) -> str:
    """Repeat one character, word or line until it is very long."""
    at = draw.randrange(len(text) + 1)
    piece = draw.choice(("a", " ", "\n", "9", "\t", "a ", "é", "\\", ",", text[at : at + 20]))
    return text[:at] + piece * draw.choice((100, 5_000, MOST_REPEATS)) + text[at:]


def _end_lines(text: str, draw: Random) -> str:
    return text.replace("\n", draw.choice(("\r\n", "\r", "\n\n", " ", "\0\n", "\u2028")))


def _cut_text(text: str, draw: Random) -> str:
    at = draw.randrange(len(text) + 1)
    return draw.choice((text[:at], text[at:], "", "\n", " \n \n"))


_TEXT_MUTATIONS: list[Callable[[str, Random], str]] = [
    _change_lines, _change_lines, _change_number, _change_number, _change_word, _change_word,
    _change_space, _change_sign, _insert_text, _nest, _lengthen, _end_lines, _cut_text,
]  # fmt: skip
