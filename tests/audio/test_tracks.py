"""Choosing among several audio tracks of one recording."""

import struct
from pathlib import Path

import numpy as np
import pytest
from commands import RunAsr, one_sentence, transcribe
from odd_recordings import RATE, WAVE, locate, media, ogg, pages
from sounds import encode, error_of, no_output, sine, with_checksum  # noqa: F401

from asr.audio.containers import Track
from asr.audio.waveform import Condition, inspect_audio, load_audio, read_blocks


def warnings_of(source: bytes | Track) -> tuple[str, ...]:
    conditions: list[Condition] = []
    for _ in read_blocks(source, on_end=conditions.append):
        pass
    return conditions[0].warnings


def two_in_ogg() -> bytes:
    """The sample and a tone, which play at the same time."""
    tone = encode(sine(len(WAVE) / RATE, 48_000), 48_000, "OGG", "OPUS")
    tone_pages = [
        with_checksum(page[:14] + struct.pack("<I", 77) + page[18:]) for page in pages(tone)
    ]
    pairs = zip(pages(ogg("OPUS")), tone_pages, strict=True)
    return b"".join(page for pair in pairs for page in pair)


@pytest.mark.parametrize("kind", ["matroska", "mp4", "mpegts", "ogg"])
def test_a_track_can_be_chosen(kind: str) -> None:
    content = two_in_ogg() if kind == "ogg" else media(kind, "aac", 48_000, tracks=2).content
    [note] = warnings_of(content)
    assert "has 2 audio tracks, and only track 1 is read; choose another one with --track" in note
    assert locate(load_audio(content), 0.0)[1] > 0.95
    first, second = Track(content, 1), Track(content, 2)
    np.testing.assert_array_equal(load_audio(first), load_audio(content))
    assert warnings_of(first) == ()
    assert locate(load_audio(second), 0.0)[1] < 0.3
    assert inspect_audio(second).seconds == pytest.approx(len(WAVE) / RATE, abs=0.05)
    assert "has no audio track 3; choose one from 1 to 2" in error_of(Track(content, 3))
    assert "has no audio track 0" in error_of(Track(content, 0))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG"])
def test_other_recordings_have_one_track(format: str) -> None:
    content = encode(WAVE, RATE, format)
    np.testing.assert_array_equal(load_audio(Track(content, 1)), load_audio(content))
    assert "has no audio track 2; choose track 1, its only one" in error_of(Track(content, 2))


def test_the_command_line_chooses_a_track(
    run_asr: RunAsr, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(media("matroska", "aac", 48_000, tracks=2).content)
    model = ("--checkpoint", checkpoint)
    code, first, err = run_asr("transcribe", path, *model)
    assert code == 0
    assert f"asr: {path} has 2 audio tracks, and only track 1 is read" in one_sentence(err)
    assert run_asr("transcribe", path, *model, "--track", 1) == (0, first, "")
    code, second, err = run_asr("transcribe", path, *model, "--track", 2)
    assert (code, err) == (0, "")
    assert second != first
    code, out, err = run_asr("transcribe", path, path, *model, "--track", 2)
    assert [line.split("\t")[1] for line in out.splitlines()] == [second.strip()] * 2
    code, out, err = run_asr("transcribe", path, *model, "--track", 3)
    assert (code, out) == (1, "")
    assert "has no audio track 3" in one_sentence(err)
    content = path.read_bytes()
    standard = run_asr("transcribe", "-", *model, "--track", 2, stdin=content)
    assert standard == (0, second, "")
    assert transcribe(path, checkpoint) == first.strip()
