"""Valid inputs, small and always the same, which the doors damage."""

import io
import json
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from ngrams import HAND
from project import ROOT

from asr.lm.model import LanguageModel

SECONDS = 0.5
RATE = 16_000
TITLE = "été"
# A short recording as bytes, by a name that says what it is.
Recordings = dict[str, bytes]

_SOUNDS = [  # format, subtype, sample rate, channels
    ("WAV", "PCM_16", 16_000, 1),
    ("WAV", "PCM_U8", 8_000, 2),
    ("WAV", "FLOAT", 44_100, 1),
    ("WAV", "ULAW", 8_000, 1),
    ("WAV", "MS_ADPCM", 16_000, 1),
    ("WAV", "IMA_ADPCM", 16_000, 1),
    ("WAVEX", "PCM_24", 16_000, 2),
    ("RF64", "PCM_16", 16_000, 1),
    ("W64", "PCM_16", 16_000, 1),
    ("AIFF", "PCM_16", 16_000, 1),
    ("CAF", "PCM_16", 16_000, 1),
    ("CAF", "ALAC_16", 16_000, 1),
    ("AU", "PCM_16", 16_000, 1),
    ("NIST", "PCM_16", 16_000, 1),
    ("FLAC", "PCM_16", 16_000, 1),
    ("FLAC", "PCM_24", 48_000, 2),
    ("OGG", "VORBIS", 16_000, 1),
    ("MP3", "MPEG_LAYER_III", 16_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
]
_CONTAINERS = [  # format, codec, sample rate
    ("mp4", "aac", 16_000),
    ("ipod", "alac", 16_000),
    ("3gp", "aac", 16_000),
    ("mov", "pcm_s16le", 16_000),
    ("webm", "libopus", 48_000),
    ("matroska", "aac", 44_100),
    ("matroska", "flac", 16_000),
    ("matroska", "ac3", 48_000),
]


@cache
def speech() -> np.ndarray:
    """Half a second of docs/sample.flac, (N,) at 16 kHz."""
    samples, _ = soundfile.read(ROOT / "docs/sample.flac", dtype="float32")
    return samples[16_000 : 16_000 + round(SECONDS * RATE)]


@cache
def sounds() -> Recordings:
    """Recordings in every format that libsndfile writes and people use, and some joined ones."""
    found = {}
    for format, subtype, rate, channels in _SOUNDS:
        file = io.BytesIO()
        wave = np.repeat(_resample(rate)[:, None], channels, axis=1)
        soundfile.write(file, wave, rate, format=format, subtype=subtype)
        content = file.getvalue()
        if (peak := content.find(b"PEAK")) > 0:  # a chunk that holds the time of writing
            content = content[: peak + 12] + bytes(4) + content[peak + 16 :]
        found[f"{subtype} {rate} {channels}.{format.lower()}"] = content
    found["libopus.ogg"] = encode("ogg", "libopus", 48_000)
    found["vorbis.ogg"] = _number_stream(found.pop("VORBIS 16000 1.ogg"))
    mp3 = found["MPEG_LAYER_III 16000 1.mp3"]
    title = b"TIT2" + struct.pack(">IH", 6, 0) + b"\0title"
    tag = b"ID3\x03\0\0" + struct.pack(">I", len(title)) + title
    found["joined.mp3"] = mp3 + found["MPEG_LAYER_III 44100 2.mp3"]
    found["tagged.mp3"] = tag + mp3 + b"TAG".ljust(128, b"\0")
    found["joined.wav"] = found["PCM_16 16000 1.wav"] + found["FLOAT 44100 1.wav"]
    found["joined.ogg"] = found["vorbis.ogg"] + found["libopus.ogg"]
    found["tagged.flac"] = tag + found["PCM_16 16000 1.flac"]
    return found


@cache
def media() -> Recordings:
    """Recordings in containers of sound and video, some with titles that are no UTF-8."""
    found = {f"{codec}.{form}": encode(form, codec, rate) for form, codec, rate in _CONTAINERS}
    for name in ("aac.mp4", "libopus.webm"):
        found[f"title {name}"] = found[name].replace(TITLE.encode(), b"\xe9t\xe9\xff\xc3")
    return found


def encode(format: str, codec: str, rate: int) -> bytes:
    """The speech in a container that FFmpeg writes, the same bytes at every call."""
    file = io.BytesIO()
    with av.open(file, "w", format=format, options={"fflags": "bitexact"}) as container:
        container.metadata["title"] = TITLE
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"flags": "bitexact"}
        frame = av.AudioFrame.from_ndarray(_resample(rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        size = context.frame_size or 1024
        cutter = av.AudioResampler(context.format.name, "mono", rate, size)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(piece))
    return file.getvalue()


def _number_stream(ogg: bytes) -> bytes:
    """An Ogg file whose stream, which libsndfile numbers at random, has the number 1."""
    pages = []
    for page in ogg.split(b"OggS")[1:]:
        numbered = b"OggS" + page[:10] + struct.pack("<II", 1, *struct.unpack("<I", page[14:18]))
        numbered += bytes(4) + page[22:]
        checksum = 0  # Ogg's CRC-32 has zlib's polynomial, but begins with the highest bit
        for byte in numbered:
            checksum ^= byte << 24
            for _ in range(8):
                high = checksum >> 31
                checksum = (checksum << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if high else 0)
        pages.append(numbered[:22] + struct.pack("<I", checksum) + numbered[26:])
    return b"".join(pages)


def _resample(rate: int) -> np.ndarray:
    times = np.arange(round(SECONDS * rate)) * RATE / rate
    return np.interp(times, np.arange(len(speech())), speech()).astype(np.float32)


def wav() -> bytes:
    """The plainest recording."""
    return sounds()["PCM_16 16000 1.wav"]


TEXTS = ("the old man", "opened the door — “and” looked", "out into the rain", "l'été à 1.5 °C")


def manifest(names: Sequence[str], texts: Sequence[str] = TEXTS) -> bytes:
    """A manifest of recordings of `SECONDS`."""
    lines = [
        {"id": f"u{number}", "audio_filepath": name, "duration": SECONDS, "text": text}
        | ({"speaker": "s1", "lang": ["en", {"x": None}]} if number % 2 else {})
        for number, (name, text) in enumerate(zip(names, texts, strict=False))
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def corpora() -> "dict[str, list[dict[str, bytes]]]":
    """Small corpora of each layout, each as its files."""
    sound, flac = wav(), sounds()["PCM_16 16000 1.flac"]
    sentences = "".join(f"1-2-000{n} {text}\n" for n, text in enumerate(TEXTS[:2]))
    rows = "client_id\tpath\tsentence\tup_votes\n" + "".join(
        f"c{n}\tclip{n}.wav\t{text}\t1\n" for n, text in enumerate(TEXTS)
    )
    libri = {f"1/2/1-2-000{n}.flac": flac for n in range(2)}
    clips = {f"clips/clip{n}.wav": sound for n in range(2)}
    odd_paths = ("clip0.wav", "clip0.wav", "../../../etc/passwd", "/etc/hostname", "a" * 300)
    odd = "path\tsentence\n" + "".join(f"{path}\t{TEXTS[0]}\n" for path in odd_paths)
    kaldi = {
        "wav.scp": b"u1 a.wav\nu2 b.wav\nu3 sph2pipe -f wav x.sph |\n",
        "text": f"u1 {TEXTS[0]}\nu2 {TEXTS[3]}\nu3 x\n".encode(),
        "utt2spk": b"u1 s1\nu2 s2\n",
        "a.wav": sound,
        "b.wav": sound,
    }
    folder = {
        "s1/a.wav": sound,
        "s1/a.txt": TEXTS[1].encode(),
        "s2/é.flac": flac,
        "s2/é.TXT": TEXTS[3].encode(),
        "notes.md": b"# notes\n",
    }
    return {
        "librispeech": [libri | {"1/2/1-2.trans.txt": sentences.encode()}],
        "common-voice": [clips | {"train.tsv": table.encode()} for table in (rows, odd)],
        "kaldi": [kaldi],
        "folder": [folder],
    }


def score_pairs() -> "list[dict[str, bytes]]":
    """Reference and hypothesis in every pair of formats that `asr score` reads."""
    names = ["u1_a", "u2_b", "u3_c"]
    texts = TEXTS[:3]
    pairs = list(zip(names, texts, strict=True))
    forms = {
        "jsonl": manifest(["u1_a.wav", "u2_b.wav", "u3_c.wav"], texts).replace(b'"id"', b'"n"'),
        "kaldi": "".join(f"{name} {text}\n" for name, text in pairs).encode(),
        "trn": "".join(f"{text} ({name})\n" for name, text in pairs).encode(),
        "tsv": ("id\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in pairs)).encode(),
    }
    found = [{"ref": one, "hyp": other} for one in forms.values() for other in forms.values()]
    plain = "".join(f"{text}\n" for text in texts).encode()
    return [*found, {"ref": plain, "hyp": plain.upper()}]


def arpa() -> bytes:
    """A trigram model by hand, with words of the English alphabet."""
    return HAND.encode()


def fill_checksum(binary: bytes) -> bytes:
    """A binary language model whose checksum is right again after damage."""
    if len(binary) < 64:
        return binary
    checksum = zlib.crc32(binary[64:], zlib.crc32(binary[:56]))
    return binary[:56] + struct.pack("<Q", 1 << 32 | checksum) + binary[64:]


def read_folder(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_language_model(folder: Path, quantize: bool = False) -> bytes:
    """Write the model of `arpa` as folder/model.lm; returns its bytes."""
    source = folder / "model.arpa"
    source.write_bytes(arpa())
    LanguageModel.read(source).write(folder / "model.lm", quantize)
    return (folder / "model.lm").read_bytes()
