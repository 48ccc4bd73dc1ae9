"""Recordings of noise for tests of the command line: good, odd and damaged ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000
TALK_SECONDS = 63.0


def make_noise(seconds: float, sample_rate: int = RATE, channels: int = 1) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal(round(seconds * sample_rate))
    swell = np.sin(np.arange(len(noise)) * 25 / sample_rate) ** 8
    return np.repeat((0.2 * swell * noise)[:, None], channels, axis=1)


def write_encoded(path: Path, seconds: float, sample_rate: int) -> Path:
    """Write noise in the format that the file's name asks for: wav, mp3, ... or m4a."""
    noise = make_noise(seconds, sample_rate)[:, 0].astype(np.float32)
    if path.suffix != ".m4a":
        soundfile.write(path, noise, sample_rate)
        return path
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=sample_rate)
        stream.layout = "mono"
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(noise[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        cutter = av.AudioResampler(context.format.name, "mono", sample_rate, context.frame_size)
        for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
            container.mux(stream.encode(piece))
    return path


def write_good(folder: Path) -> list[Path]:
    """Every kind of recording that must be transcribed."""
    noise = make_noise(1.0)
    kinds = {
        "8-bit.wav": (noise, RATE, "PCM_U8"),
        "24-bit.wav": (noise, RATE, "PCM_24"),
        "float.wav": (noise, RATE, "FLOAT"),
        "8-channels.wav": (make_noise(1.0, RATE, 8), RATE, "PCM_16"),
        "8k.wav": (make_noise(1.0, 8_000), 8_000, "PCM_16"),
        "44k.wav": (make_noise(1.0, 44_100), 44_100, "PCM_16"),
        "192k.wav": (make_noise(1.0, 192_000), 192_000, "PCM_24"),
        "clipping.wav": (np.clip(noise * 50, -1, 1), RATE, "PCM_16"),
        "beyond-full-scale.wav": (noise * 50, RATE, "FLOAT"),
        "silence.wav": (np.zeros(2 * RATE), RATE, "PCM_16"),
        "10-ms.wav": (noise[:160], RATE, "PCM_16"),
    }
    folder.mkdir()
    for name, (waveform, rate, subtype) in kinds.items():
        soundfile.write(folder / name, waveform, rate, subtype=subtype)
    piped = bytearray((folder / "float.wav").read_bytes())
    at = piped.index(b"data") + 4
    piped[at : at + 4] = b"\xff\xff\xff\xff"  # as a program that writes into a pipe leaves it
    piped[4:8] = b"\xff\xff\xff\xff"
    (folder / "piped.wav").write_bytes(piped)
    return [folder / name for name in (*kinds, "piped.wav")]


def write_bad(folder: Path) -> dict[Path, str]:
    """Every kind of recording that must be refused, and a word of its sentence."""
    folder.mkdir()
    noise = make_noise(2.0)
    soundfile.write(folder / "whole.wav", noise, RATE)
    whole = (folder / "whole.wav").read_bytes()
    soundfile.write(
        folder / "nan.wav", np.where(np.arange(RATE) == 9_000, np.nan, 0.1), RATE, "FLOAT"
    )
    soundfile.write(folder / "no-samples.wav", np.zeros(0), RATE)
    (folder / "zero-bytes.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is text, and no recording at all.\n" * 20)
    (folder / "short.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "corrupt.flac", noise, RATE)
    flac = bytearray((folder / "corrupt.flac").read_bytes())
    flac[100:] = b"\x55" * (len(flac) - 100)  # the header is left, and no frame
    (folder / "corrupt.flac").write_bytes(flac)
    soundfile.write(folder / "short.mp3", noise, RATE)
    mp3 = (folder / "short.mp3").read_bytes()
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    (folder / "short.mp3").write_bytes(mp3[: len(mp3) * 3 // 4])
    (folder / "empty folder").mkdir()
    (folder / "whole.wav").unlink()
    words = {
        "missing.wav": "does not exist",
        "empty folder": "folder",
        "zero-bytes.wav": "0 bytes",
        "text.wav": "not audio",
        "no-samples.wav": "no samples",
        "nan.wav": "finite",
        "corrupt.flac": "damaged",
        "short.wav": "cut short",
        "short.mp3": "cut short",
    }
    return {folder / name: word for name, word in words.items()}
