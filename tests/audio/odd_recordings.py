"""Odd but valid recordings, all of docs/sample.flac: what other programs and devices write.

`RECIPES` has a function for each, which returns an `Odd`.
"""

import io
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from project import ROOT
from sounds import with_checksum

from asr.audio.mp3 import read_xing

RATE = 16_000
WAVE, _ = soundfile.read(ROOT / "docs" / "sample.flac", dtype="float32")  # (N,)


@dataclass(frozen=True)
class Odd:
    """A recording of the sample.

    Attributes:
        content: Its bytes.
        shift: Seconds of silence that its timeline has before the sample.
        is_exact: Whether it is lossless and has all of the sample's bandwidth.
        plays: Where each copy of the sample begins, in seconds after `shift`.
    """

    content: bytes
    shift: float = 0.0
    is_exact: bool = True
    plays: Sequence[float] = field(default=(0.0,))


RECIPES: dict[str, Callable[[], Odd]] = {}


def locate(waveform: np.ndarray, seconds: float) -> tuple[float, float]:
    """Where the sample begins near `seconds` of a waveform, and its correlation with it there."""
    search = round(0.5 * RATE)
    padded = np.pad(waveform, search)
    begin = round(seconds * RATE)  # in `padded`, `search` earlier than expected
    part = padded[begin : begin + len(WAVE) + 2 * search]
    at = int(scipy.signal.correlate(part, WAVE, "valid", "fft").argmax())
    found = part[at : at + len(WAVE)]
    return (at - search) / RATE + seconds, float(np.corrcoef(found, WAVE)[0, 1])


def at_rate(rate: int, channels: int = 1, spoken: Sequence[int] | None = None) -> np.ndarray:
    """The sample at a rate (N, channels), heard in the channels `spoken` only (default: all)."""
    wave = WAVE if rate == RATE else soxr.resample(WAVE, RATE, rate)
    block = np.zeros((len(wave), channels), np.float32)
    block[:, range(channels) if spoken is None else list(spoken)] = wave[:, None]
    return block


def integers(rate: int = RATE, order: str = "<", bits: int = 16, channels: int = 1) -> bytes:
    """The sample as integers of `bits` significant ones, in 16 bits."""
    values = np.round(at_rate(rate, channels) * (1 << bits - 1)).astype(np.int16)
    return (values << 16 - bits).astype(f"{order}i2").tobytes()


def sound(
    format: str,
    subtype: str,
    rate: int,
    channels: int = 1,
    spoken: Sequence[int] | None = None,
    endian: str = "FILE",
    is_exact: bool = True,
) -> Odd:
    """What libsndfile writes."""
    file = io.BytesIO()
    wave = at_rate(rate, channels, spoken)
    soundfile.write(file, wave, rate, format=format, subtype=subtype, endian=endian)
    return Odd(file.getvalue(), is_exact=is_exact and rate >= RATE)


SOUNDS: dict[str, tuple[Any, ...]] = {
    "wav 7,350 Hz": ("WAV", "PCM_16", 7_350),
    "wav 8,000 Hz of 8 bits": ("WAV", "PCM_U8", 8_000),
    "wav 11,025 Hz stereo": ("WAV", "PCM_16", 11_025, 2),
    "wav 22,050 Hz of 24 bits": ("WAV", "PCM_24", 22_050),
    "wav 37,800 Hz of 32 bits": ("WAV", "PCM_32", 37_800),
    "wav 96,000 Hz of floats": ("WAV", "FLOAT", 96_000),
    "wav 192,000 Hz of doubles": ("WAV", "DOUBLE", 192_000),
    "wav with mu-law": ("WAV", "ULAW", 8_000),
    "wav with A-law in stereo": ("WAV", "ALAW", 16_000, 2, None, "FILE", False),
    "wav with IMA ADPCM": ("WAV", "IMA_ADPCM", 16_000, 1, None, "FILE", False),
    "wav with Microsoft ADPCM": ("WAV", "MS_ADPCM", 22_050, 2, None, "FILE", False),
    "wav with GSM 6.10": ("WAV", "GSM610", 8_000),
    "wav with G.721": ("WAV", "G721_32", 16_000, 1, None, "FILE", False),
    "wav with speech on the left": ("WAV", "PCM_16", 48_000, 2, (0,)),
    "wav of 5.1 with speech in the center": ("WAVEX", "PCM_16", 48_000, 6, (2,)),
    "wav of 5.1 with speech at the back": ("WAVEX", "PCM_24", 44_100, 6, (5,)),
    "wav of 32 channels": ("WAVEX", "PCM_16", 16_000, 32, (30,)),
    "rifx": ("WAV", "PCM_16", 32_000, 1, None, "BIG"),
    "rifx of 24 bits": ("WAV", "PCM_24", 16_000, 2, None, "BIG"),
    "rf64": ("RF64", "PCM_24", 44_100, 2),
    "wave64": ("W64", "FLOAT", 48_000),
    "wave64 of 8 bits": ("W64", "PCM_U8", 16_000, 1, None, "FILE", False),
    "aiff": ("AIFF", "PCM_16", 22_255),
    "aiff of 8 bits": ("AIFF", "PCM_S8", 44_100, 1, None, "FILE", False),
    "aifc of little-endian samples": ("AIFF", "PCM_16", 44_100, 2, None, "LITTLE"),
    "aifc of floats": ("AIFF", "FLOAT", 16_000),
    "aifc with mu-law": ("AIFF", "ULAW", 8_000),
    "aifc with IMA ADPCM": ("AIFF", "IMA_ADPCM", 44_100, 1, None, "FILE", False),
    "caf of little-endian floats": ("CAF", "FLOAT", 48_000, 1, None, "LITTLE"),
    "caf with ALAC": ("CAF", "ALAC_16", 44_100, 2),
    "au with mu-law": ("AU", "ULAW", 8_012),
    "au of little-endian samples": ("AU", "PCM_16", 16_000, 1, None, "LITTLE"),
    "sphere": ("NIST", "PCM_16", 16_000),
    "sphere of little-endian stereo": ("NIST", "PCM_16", 16_000, 2, None, "LITTLE"),
    "sphere with mu-law": ("NIST", "ULAW", 8_000, 2),
    "voc of 8 bits": ("VOC", "PCM_U8", 8_000),
    "voc of 16 bits in stereo": ("VOC", "PCM_16", 22_050, 2),
    "flac of 8 bits": ("FLAC", "PCM_S8", 16_000, 1, None, "FILE", False),
    "flac of 24 bits in 5.1": ("FLAC", "PCM_24", 96_000, 6, (2,)),
    "mp3 of MPEG 2.5": ("MP3", "MPEG_LAYER_III", 8_000),
    "mp3 of MPEG 2": ("MP3", "MPEG_LAYER_III", 22_050, 2, None, "FILE", False),
    "mp3 with speech on the right": ("MP3", "MPEG_LAYER_III", 48_000, 2, (1,), "FILE", False),
    "ogg with Vorbis": ("OGG", "VORBIS", 44_100, 2, None, "FILE", False),
    "avr": ("AVR", "PCM_16", 16_000),
    "paf": ("PAF", "PCM_24", 44_100),
    "pvf": ("PVF", "PCM_16", 16_000),
    "8svx": ("SVX", "PCM_16", 16_000),
    "ircam": ("IRCAM", "PCM_16", 44_100),
    "mpc 2000": ("MPC2K", "PCM_16", 44_100),
    "htk": ("HTK", "PCM_16", 16_000),
}
RECIPES |= {name: partial(sound, *settings) for name, settings in SOUNDS.items()}


def recipe(name: str) -> Callable[[Callable[[], Odd]], Callable[[], Odd]]:
    def add(make: Callable[[], Odd]) -> Callable[[], Odd]:
        RECIPES[name] = make
        return make

    return add


# WAV


def chunk(name: bytes, body: bytes, *, pad: bool = True, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(body)) + body + b"\0" * (pad * (len(body) % 2))


def plain_format(rate: int = RATE, channels: int = 1, bits: int = 16, more: bytes = b"") -> bytes:
    width = channels * bits // 8
    return struct.pack("<HHIIHH", 1, channels, rate, rate * width, width, bits) + more


def wave(
    before: bytes = b"",
    after: bytes = b"",
    *,
    sizes: tuple[int, int] | None = None,
    form: bytes | None = None,
    samples: bytes | None = None,
) -> Odd:
    """A WAV file with other chunks; `sizes` are those of the file and of the samples in the header."""
    samples = integers() if samples is None else samples
    head = before + (chunk(b"fmt ", plain_format()) if form is None else form)
    whole, size = sizes or (len(head) + len(samples) + len(after) + 12, len(samples))
    header = b"RIFF" + struct.pack("<I", whole) + b"WAVE" + head + b"data"
    return Odd(header + struct.pack("<I", size) + samples + after)


INFO = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf61.7.100\0"))
ODD_INFO = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"Tuesday", pad=False), pad=False)
GUID = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
EXTENSIBLE = struct.pack("<HHI", 22, 24, 4) + b"\1\0" + GUID
WAVES: dict[str, Callable[[], Odd]] = {
    "wav with LIST before the samples": lambda: wave(
        form=chunk(b"fmt ", plain_format()) + INFO,
    ),
    "wav with an odd chunk and its pad byte": lambda: wave(
        form=chunk(b"fmt ", plain_format()) + chunk(b"note", b"recorded on Monday morning.")
    ),
    "wav with an odd chunk without a pad byte": lambda: wave(
        form=chunk(b"fmt ", plain_format()) + ODD_INFO
    ),
    "wav with several odd chunks without pad bytes": lambda: wave(
        chunk(b"bext", bytes(603), pad=False),
        ODD_INFO,
        form=chunk(b"fmt ", plain_format()) + ODD_INFO + chunk(b"iXML", b"<a/>\n", pad=False),
    ),
    "wav of a workstation": lambda: wave(
        chunk(b"JUNK", bytes(92)) + chunk(b"bext", b"Interview".ljust(857, b"\0")),
        chunk(b"cue ", struct.pack("<I6I", 1, 1, 0, 0x61746164, 0, 0, 800))
        + chunk(b"LIST", b"adtl" + chunk(b"labl", b"\1\0\0\0start\0"))
        + chunk(b"id3 ", b"ID3\4\0\0\0\0\0\0")
        + chunk(b"_PMX", b"<x:xmpmeta/>"),
        form=chunk(b"fmt ", plain_format()) + chunk(b"fact", struct.pack("<I", len(WAVE))),
    ),
    "wav of Pro Tools": lambda: wave(
        b"".join(chunk(name, bytes(16)) for name in (b"minf", b"elm1", b"regn", b"umid")),
        chunk(b"DGDA", bytes(100)),
    ),
    "wav with its format behind other chunks": lambda: wave(INFO + chunk(b"PAD ", bytes(4_000))),
    "wav with a format of 18 bytes": lambda: wave(form=chunk(b"fmt ", plain_format(more=b"\0\0"))),
    "wav with a format of 28 bytes": lambda: wave(
        form=chunk(b"fmt ", plain_format(more=bytes(12)))
    ),
    "wav of 12 bits": lambda: wave(
        form=chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 12)),
        samples=integers(bits=12),
    ),
    "wav of 20 bits in 24": lambda: wave(
        form=chunk(
            b"fmt ",
            struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 3 * RATE, 3, 24, 22, 20, 4) + b"\1\0" + GUID,
        ),
        samples=np.pad(
            np.frombuffer(integers(), np.uint8).reshape(-1, 2), ((0, 0), (1, 0))
        ).tobytes(),
    ),
    "wav of 24 bits in 32": lambda: wave(
        form=chunk(
            b"fmt ",
            struct.pack("<HHIIHH", 0xFFFE, 1, RATE, 4 * RATE, 4, 32) + EXTENSIBLE,
        ),
        samples=(np.round(WAVE * (1 << 23)).astype("<i4") << 8).tobytes(),
    ),
    "wav of sox in a pipe": lambda: wave(sizes=(0x7FFFF024, 0x7FFFF000)),
    "wav of ffmpeg in a pipe": lambda: wave(
        form=chunk(b"fmt ", plain_format()) + INFO, sizes=(0xFFFFFFFF, 0xFFFFFFFF)
    ),
    "wav of a crashed recorder": lambda: wave(sizes=(0, 0)),
    "wav with the sizes of its header only": lambda: wave(sizes=(36, 0)),
    "wav with a right size of the file and none of the samples": lambda: wave(
        sizes=(36 + 2 * len(WAVE), 0)
    ),
    "wav with a wrong size of the file": lambda: wave(sizes=(36, 2 * len(WAVE))),
    "wav with a wrong rate of bytes": lambda: wave(
        form=chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 0, 2, 16))
    ),
    "wav behind an ID3 tag": lambda: Odd(id3(300) + wave().content),
    "wav with a trailing ID3v1 tag": lambda: Odd(wave().content + b"TAG" + bytes(125)),
}
RECIPES |= WAVES


@recipe("rf64 of unknown size")
def rf64_pipe() -> Odd:
    content = sound("RF64", "PCM_16", 16_000).content
    at = content.index(b"ds64") + 8
    data = content.index(b"data") + 4
    return Odd(
        content[:at] + bytes(24) + content[at + 24 : data] + b"\xff" * 4 + content[data + 4 :]
    )


@recipe("bw64")
def bw64() -> Odd:
    return Odd(b"BW64" + sound("RF64", "PCM_16", 48_000, 2).content[4:])


# Other uncompressed files


@recipe("caf of unknown size")
def caf_pipe() -> Odd:
    content = sound("CAF", "PCM_16", 16_000).content
    at = content.index(b"data") + 4
    return Odd(content[:at] + b"\xff" * 8 + content[at + 8 :])


@recipe("caf of unknown size at another rate")
def caf_pipe_fast() -> Odd:
    content = sound("CAF", "PCM_24", 44_100, 2, None, "LITTLE").content
    at = content.index(b"data") + 4
    return Odd(content[:at] + b"\xff" * 8 + content[at + 8 :])


@recipe("caf with other chunks")
def caf_chunks() -> Odd:
    content = sound("CAF", "PCM_16", 16_000).content
    at = content.index(b"data")
    info = b"\0\0\0\1artist\0me\0"
    free = b"free" + struct.pack(">q", 4_001) + bytes(4_001)
    return Odd(
        content[:at] + b"info" + struct.pack(">q", len(info)) + info + free + content[at:] + free
    )


@recipe("wave64 of ffmpeg in a pipe")
def wave64_pipe() -> Odd:
    content = sound("W64", "PCM_16", 16_000).content
    at = content.index(b"data\xf3") + 16
    largest = struct.pack("<q", (1 << 63) - 1)
    return Odd(content[:16] + largest + content[24:at] + largest + content[at + 8 :])


def aiff_pipe(size: int, frames: int) -> Odd:
    """An AIFF file whose writer could not fill in the sizes."""
    content = sound("AIFF", "PCM_16", 16_000).content
    whole, samples = (
        struct.pack(">I", value and value + more) for value, more in ((size, 60), (size, 8))
    )
    comm, at = content.index(b"COMM") + 10, content.index(b"SSND") + 4
    content = content[:comm] + struct.pack(">I", frames) + content[comm + 4 :]
    return Odd(content[:4] + whole + content[8:at] + samples + content[at + 4 :])


RECIPES["aiff of sox in a pipe"] = lambda: aiff_pipe(0x7F000000, 0x7F000000 // 2)
RECIPES["aiff of ffmpeg in a pipe"] = lambda: aiff_pipe(0, 0)


@recipe("au of unknown size")
def au_pipe() -> Odd:
    header = struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, RATE, 1)
    return Odd(b".snd" + header + integers(order=">"))


@recipe("au with a long text in its header")
def au_text() -> Odd:
    text = b"Recorded in the kitchen".ljust(1_000, b"\0")
    samples = integers(order=">")
    header = struct.pack(">IIIII", 24 + len(text), len(samples), 3, RATE, 1)
    return Odd(b".snd" + header + text + samples)


@recipe("aiff with other chunks")
def aiff_chunks() -> Odd:
    content = sound("AIFF", "PCM_16", 16_000).content
    at = content.index(b"SSND")
    extra = chunk(b"NAME", b"a tape", order=">") + chunk(b"ANNO", b"side B!", order=">")
    extra += chunk(b"ID3 ", id3(64), order=">")
    body = content[12:at] + extra + content[at:] + extra
    return Odd(b"FORM" + struct.pack(">I", len(body) + 4) + b"AIFF" + body)


@recipe("aiff with an offset before its samples")
def aiff_offset() -> Odd:
    content = sound("AIFF", "PCM_16", 16_000).content
    at = content.index(b"SSND")
    samples = content[at + 16 :]
    body = content[12:at] + chunk(
        b"SSND", struct.pack(">II", 512, 0) + bytes(512) + samples, order=">"
    )
    return Odd(b"FORM" + struct.pack(">I", len(body) + 4) + b"AIFF" + body)


def sphere(count: int | None, bits: int = 2, order: str = "<") -> Odd:
    samples = integers(order=order)
    fields = [
        "database_id -s6 TIMITX",
        "utterance_id -s8 cjf0_sa1",
        "channel_count -i 1",
        *([] if count is None else [f"sample_count -i {count}"]),
        f"sample_rate -i {RATE}",
        f"sample_byte_format -s2 {'01' if order == '<' else '10'}",
        f"sample_n_bytes -i {bits}",
        "sample_sig_bits -i 16",
        "end_head",
    ]
    header = "NIST_1A\n   1024\n" + "\n".join(fields) + "\n"
    return Odd(header.encode().ljust(1024, b" ") + samples)


RECIPES["sphere of TIMIT"] = lambda: sphere(len(WAVE))
RECIPES["sphere without a count"] = lambda: sphere(None)
RECIPES["sphere of big-endian samples"] = lambda: sphere(len(WAVE), order=">")
RECIPES["sphere that counts too few samples"] = lambda: sphere(len(WAVE) // 2)


@recipe("voc of several blocks")
def voc_blocks() -> Odd:
    samples = integers()
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x0114, 0x111F)
    body = struct.pack("<IBBHI", RATE, 16, 1, 4, 0) + samples
    return Odd(head + b"\x09" + struct.pack("<I", len(body))[:3] + body + b"\0")


# FLAC


def flac(rate: int = 16_000, channels: int = 1, subtype: str = "PCM_16") -> bytes:
    return sound("FLAC", subtype, rate, channels).content


def flac_block(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">I", len(body))[1:] + body


PICTURE = struct.pack(">I", 3) + struct.pack(">I", 9) + b"image/png" + bytes(20)


@recipe("flac of unknown length")
def flac_pipe() -> Odd:
    content = bytearray(flac())
    content[8:14] = bytes([16, 0, 16, 0, 0, 0])  # sizes of frames unknown too
    content[14:18] = bytes(4)
    content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    content[26:42] = bytes(16)
    return Odd(bytes(content))


@recipe("flac behind two ID3 tags")
def flac_id3() -> Odd:
    return Odd(id3(20_000) + id3(100) + flac(44_100, 2))


@recipe("flac with pictures and padding")
def flac_pictures() -> Odd:
    content = flac(48_000)
    image = PICTURE + struct.pack(">I", 700_000) + np.random.default_rng(0).bytes(700_000)
    blocks = flac_block(6, image) * 2 + flac_block(3, b"\xff" * 180) + flac_block(1, bytes(8_192))
    return Odd(content[:42] + blocks + content[42:])


@recipe("flac with a trailing ID3v1 tag")
def flac_id3v1() -> Odd:
    return Odd(flac() + b"TAG" + bytes(125))


# MP3


def id3(size: int) -> bytes:
    """An ID3v2 tag with a picture of `size` bytes that look like the beginnings of frames."""
    body = b"APIC" + struct.pack(">IH", size, 0) + (b"\xff\xfb\x90\x64" * (size // 4 + 1))[:size]
    sizes = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + sizes + body


def mp3(rate: int = 44_100, channels: int = 1) -> bytes:
    return sound("MP3", "MPEG_LAYER_III", rate, channels).content


def constant_mp3() -> bytes:
    """Frames of 128 kbit/s at 48,000 Hz without a Xing header, all of 384 bytes."""
    options = {"write_xing": "0", "id3v2_version": "0", "write_id3v1": "0"}
    codec = {"reservoir": "0"}
    return media(
        "mp3", "libmp3lame", 48_000, options=options, bit_rate=128_000, codec=codec
    ).content


MP3S: dict[str, Callable[[], Odd]] = {
    "mp3 behind several large ID3 tags": lambda: lossy(
        id3(300_000) + id3(150_000) + id3(10) + bytes(2_000) + mp3()
    ),
    "mp3 with tags at its end": lambda: lossy(
        mp3() + b"APETAGEX" + bytes(200) + b"LYRICSBEGIN" + bytes(50) + b"TAG" + bytes(125)
    ),
    "mp3 behind junk": lambda: lossy(b"RCRD\0\1junk of a recorder\xff\xe0" * 40 + mp3()),
    "mp3 behind zeros": lambda: lossy(bytes(4_000) + mp3()),
    "mp3 without a Xing header": lambda: lossy(constant_mp3()),
    "mp3 of free format": lambda: lossy(free_format(constant_mp3())),
    "mp3 with a VBRI header": lambda: lossy(vbri(constant_mp3())),
    "mp3 with checksums": lambda: lossy(protect(constant_mp3())),
}
RECIPES |= MP3S


@recipe("wav with MP3 of a variable bit rate")
def variable_mp3() -> Odd:
    content = mp3()
    frames = content[read_xing(content).frame_bytes :]
    more = struct.pack("<HHIHHH", 12, 1, 2, 417, 1, 1393)
    form = struct.pack("<HHIIHH", 0x55, 1, 44_100, 16_000, 1, 0) + more
    return lossy(wave(form=chunk(b"fmt ", form), samples=frames).content)


def lossy(content: bytes, shift: float = 0.0) -> Odd:
    return Odd(content, shift, is_exact=False)


def free_format(frames: bytes) -> bytes:
    """The frames under headers that do not state their bit rate."""
    content = bytearray(frames)
    for at in range(0, len(content), 384):
        content[at + 2] &= 0x0F
    return bytes(content)


def vbri(frames: bytes) -> bytes:
    """The frames behind a silent one with the header of Fraunhofer's encoder."""
    count = len(frames) // 384
    fields = struct.pack(">HHHIIHHHH", 1, 1105, 75, len(frames), count, 0, 1, 2, count)
    frame = (frames[:4] + bytes(32) + b"VBRI" + fields).ljust(384, b"\0")
    return frame + frames


def protect(frames: bytes) -> bytes:
    """The frames with checksums, at a bit rate that leaves room for them (ISO 11172-3, 2.4.3.1)."""
    content = b""
    for at in range(0, len(frames), 384):
        frame = frames[at : at + 384]
        head = bytes([frame[0], frame[1] & 0xFE, frame[2] & 0x0F | 0xA0, frame[3]])
        side = frame[4:21]
        value = 0xFFFF
        for byte in head[2:] + side:
            value ^= byte << 8
            for _ in range(8):
                value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
        content += (head + struct.pack(">H", value) + frame[4:]).ljust(480, b"\0")
    return content


# Ogg


def pages(content: bytes) -> list[bytes]:
    return [b"OggS" + page for page in content.split(b"OggS")[1:]]


def ogg(codec: str, rate: int = 48_000, channels: int = 1) -> bytes:
    return sound("OGG", codec, rate, channels).content


def move(content: bytes, samples: int, serial: bytes | None = None) -> bytes:
    """The Ogg stream at a later position, or under another serial number."""
    moved = b""
    for page in pages(content):
        position = struct.unpack("<q", page[6:14])[0]
        is_sound = position > 0
        position += samples * is_sound
        head = page[:6] + struct.pack("<q", position) + (serial or page[14:18])
        moved += with_checksum(head + page[18:])
    return moved


OGGS: dict[str, Callable[[], Odd]] = {
    "ogg with Opus": lambda: lossy(ogg("OPUS")),
    "opus of 8,000 Hz": lambda: lossy(ogg("OPUS", 8_000)),
    "opus of a radio, joined late": lambda: lossy(move(ogg("OPUS"), 48_000 * 3_600)),
    "vorbis of a radio, joined late": lambda: lossy(move(ogg("VORBIS"), 48_000 * 3_600)),
    "vorbis without an end": lambda: lossy(without_end(ogg("VORBIS"))),
    "opus of a long pre-skip": lambda: media("ogg", "libopus", 48_000, "stereo"),
}
RECIPES |= OGGS


def without_end(content: bytes) -> bytes:
    *first, last = pages(content)
    return b"".join(first) + with_checksum(last[:5] + bytes([last[5] & ~4]) + last[6:])


@recipe("chained opus")
def chained_opus() -> Odd:
    seconds = len(WAVE) / RATE
    chain = ogg("OPUS") + move(ogg("OPUS", 24_000, 2), 0, b"abcd")
    return Odd(chain, is_exact=False, plays=(0.0, seconds))


@recipe("chained vorbis of two rates")
def chained_vorbis() -> Odd:
    seconds = len(WAVE) / RATE
    chain = ogg("VORBIS", 44_100, 2) + move(ogg("VORBIS", 22_050), 0, b"abcd")
    return Odd(chain, is_exact=False, plays=(0.0, seconds))


# Containers, written by PyAV


def media(
    format: str,
    codec_name: str,
    rate: int,
    layout: str = "mono",
    *,
    start: float = 0.0,
    pause: float = 0.0,
    tracks: int = 1,
    video: bool = False,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    codec: dict[str, str] | None = None,
    shift: float | None = None,
    is_exact: bool = False,
) -> Odd:
    """The sample in a container.

    The first of several `tracks` has the sample, the others noise. The sample starts at `start`, and
    once more after `pause` seconds of nothing if that is not 0.
    """
    av = pytest.importorskip("av")
    seconds = len(WAVE) / RATE
    plays = (0.0, seconds + pause) if pause else (0.0,)
    with (
        tempfile.NamedTemporaryFile() as file,
        av.open(file.name, "w", format=format, options=options or {}) as container,
    ):
        pictures = container.add_stream("mpeg4", rate=25) if video else None
        streams = [
            container.add_stream(codec_name, rate=rate, layout=layout, options=codec or {})
            for _ in range(tracks)
        ]
        packets = []
        if pictures:
            pictures.width = pictures.height = 64
            for number in range(25 * round(start + seconds)):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
                picture.pts = number
                packets += pictures.encode(picture)
            packets += pictures.encode(None)
        for number, stream in enumerate(streams):
            if bit_rate:
                stream.bit_rate = bit_rate
            samples = at_rate(rate, stream.codec_context.layout.nb_channels)
            if number:
                samples = 0.01 * np.random.default_rng(0).standard_normal(samples.shape)
            for at in plays:
                packets += encode(stream, samples.astype(np.float32), start + at)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
        container.close()
        content = file.read()
    return Odd(content, start if shift is None else shift, is_exact, plays)


def encode(stream: Any, samples: np.ndarray, start: float) -> list[Any]:
    """The packets of samples (n, channels) that begin at `start` seconds."""
    import av

    context = stream.codec_context
    rate, layout = context.sample_rate, context.layout.name
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.T), format="fltp", layout=layout
    )
    frame.sample_rate, frame.pts = rate, round(start * rate)
    if not stream.codec_context.is_open:
        stream.codec_context.open()
    cutter = av.AudioResampler(context.format.name, layout, rate, context.frame_size or 1024)
    packets = []
    for piece in [*cutter.resample(frame), *cutter.resample(None)]:
        packets += stream.encode(piece)
    return packets


@recipe("mov of an old program, without ftyp")
def old_mov() -> Odd:
    odd = media("mov", "pcm_s16be", 44_100, "stereo", is_exact=True)
    return replace(odd, content=odd.content.replace(b"ftyp", b"free", 1))


MEDIA: dict[str, Callable[[], Odd]] = {
    "m4a with AAC": lambda: media("ipod", "aac", 44_100, "stereo"),
    "m4a with AAC of 16,000 Hz": lambda: media("ipod", "aac", 16_000),
    "m4a with ALAC": lambda: media("ipod", "alac", 48_000, is_exact=True),
    "mp4 in fragments": lambda: media(
        "mp4", "aac", 48_000, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ),
    "mp4 that begins with its index": lambda: media(
        "mp4", "aac", 44_100, options={"movflags": "faststart"}
    ),
    "mp4 that starts late": lambda: media("mp4", "aac", 48_000, start=2.0),
    "mp4 with a picture track before a late voice": lambda: media(
        "mp4", "aac", 48_000, start=1.5, video=True
    ),
    "mp4 with a pause": lambda: media("mp4", "aac", 48_000, pause=2.0),
    "mp4 with Opus": lambda: media("mp4", "libopus", 48_000),
    "mp4 with FLAC": lambda: media("mp4", "flac", 44_100, is_exact=True),
    "mp4 with MP3": lambda: media("mp4", "libmp3lame", 44_100),
    "mov with 24 bits": lambda: media("mov", "pcm_s24le", 48_000, "stereo", is_exact=True),
    "mov with IMA ADPCM": lambda: media("mov", "adpcm_ima_qt", 44_100),
    "mov with mu-law": lambda: media("mov", "pcm_mulaw", 8_000),
    "3gp with AMR": lambda: media("3gp", "libopencore_amrnb", 8_000, bit_rate=12_200),
    "webm with Opus": lambda: media("webm", "libopus", 48_000),
    "webm with Vorbis": lambda: media("webm", "vorbis", 44_100, "stereo", codec={"strict": "-2"}),
    "webm of a live recorder": lambda: media("webm", "libopus", 48_000, options={"live": "1"}),
    "webm with a pause": lambda: media("webm", "libopus", 48_000, pause=3.0),
    "webm that starts late": lambda: media("webm", "libopus", 48_000, start=2.5),
    "mkv with 16 bits that starts late": lambda: media(
        "matroska", "pcm_s16le", 16_000, start=1.5, is_exact=True
    ),
    "mkv with FLAC of 5.1": lambda: media("matroska", "flac", 48_000, "5.1", is_exact=True),
    "mkv with AC-3 and pictures": lambda: media(
        "matroska", "ac3", 48_000, "5.1", start=0.5, video=True
    ),
    "mkv with two tracks": lambda: media("matroska", "aac", 48_000, tracks=2),
    "ts with AAC": lambda: media("mpegts", "aac", 48_000),
    "ts with MP2 and pictures": lambda: media(
        "mpegts", "mp2", 48_000, "stereo", start=1.0, video=True
    ),
    "avi with MP3": lambda: media("avi", "libmp3lame", 44_100, video=True),
    "avi with 16 bits": lambda: media("avi", "pcm_s16le", 22_050, is_exact=True),
    "adts": lambda: media("adts", "aac", 44_100, "stereo"),
    "adts behind an ID3 tag": lambda: Odd(
        id3(500) + media("adts", "aac", 48_000).content, is_exact=False
    ),
    "amr": lambda: media("amr", "libopencore_amrnb", 8_000, bit_rate=12_200),
    "ac3": lambda: media("ac3", "ac3", 48_000, "stereo"),
    "eac3": lambda: media("eac3", "eac3", 48_000, "stereo"),
    "wma": lambda: media(
        "asf", "wmav2", 44_100, bit_rate=128_000, options={"avoid_negative_ts": "disabled"}
    ),
    "flv": lambda: media("flv", "aac", 44_100, video=False),
    "mpeg program stream": lambda: media("vob", "mp2", 48_000, video=True),
    "mp2": lambda: media("mp2", "mp2", 48_000),
    "wavpack": lambda: media("wv", "wavpack", 44_100, is_exact=True),
    "tta": lambda: media("tta", "tta", 16_000, is_exact=True),
    "caf with MP3": lambda: media("caf", "libmp3lame", 44_100),
    "caf with AMR": lambda: media("caf", "libopencore_amrnb", 8_000, bit_rate=12_200),
    "ogg with FLAC": lambda: media("ogg", "flac", 44_100, is_exact=True),
    "wav with MP3": lambda: media("wav", "libmp3lame", 44_100),
    "wav with AC-3": lambda: media("wav", "ac3", 48_000),
    "wav with G.726": lambda: media("wav", "g726", 8_000),
}
RECIPES |= MEDIA
