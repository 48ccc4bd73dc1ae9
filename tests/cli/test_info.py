"""`asr info`: the facts and pictures of checkpoints, manifests and recordings."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import RunAsr, one_sentence
from recordings import RATE

from asr.data.manifest import Utterance, write_manifest
from asr.recognizer import Recognizer


def write_two_tracks(path: Path) -> None:
    """Write a second of each of two tones, of which the second is quieter."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, peak in zip(streams, (8_000, 800), strict=True):
            tone = peak * np.sin(np.arange(RATE))
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.int16), "s16", "mono")
            frame.rate = RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])


class TestInfo:
    PNG = b"\x89PNG\r\n\x1a\n"

    def facts(self, out: str) -> dict[str, str]:
        pairs = (line.split(maxsplit=1) for line in out.splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def test_checkpoint(self, run_asr: RunAsr, checkpoint: Path) -> None:
        code, out, err = run_asr("info", checkpoint)
        assert (code, err) == (0, "")
        facts = self.facts(out)
        model = Recognizer.load(checkpoint).model
        assert facts["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
        assert facts["vocabulary"] == "abcdefghijklmnopqrstuvwxyz'"
        assert (facts["mels"], facts["hidden"], facts["cell"]) == ("40", "24", "lstm")
        assert (facts["epoch"], facts["step"], facts["dev_wer"]) == ("4", "1,200", "0.123457")
        assert (facts["layers"], facts["resumable"]) == ("1", "no")
        code, _, err = run_asr("info", checkpoint, "--picture", "x.png")
        assert code == 2
        assert "--picture works for manifests and recordings only" in one_sentence(err)

    def test_recording(self, run_asr: RunAsr, tmp_path: Path) -> None:
        wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100)
        path = tmp_path / "tone.flac"
        soundfile.write(path, np.stack([wave, wave], axis=1), 44_100, subtype="PCM_24")
        picture = tmp_path / "tone.png"
        code, out, err = run_asr("info", path, "--picture", picture)
        assert (code, err) == (0, "")
        assert out.splitlines()[:2] == ["format       FLAC, PCM_24", "sample rate  44,100 Hz"]
        facts = self.facts(out)
        assert (facts["channels"], facts["seconds"]) == ("2", "0.5")
        assert facts["peak"] == "-6.0 dBFS"
        assert facts["level"] == "-9.0 dBFS (RMS)"
        assert picture.read_bytes().startswith(self.PNG)

    @pytest.mark.parametrize("seconds", [0.0001, 0.01, 2.0])
    def test_silence_and_short_ones_have_a_picture(
        self, run_asr: RunAsr, tmp_path: Path, seconds: float
    ) -> None:
        path = tmp_path / "silence.wav"
        soundfile.write(path, np.zeros(max(1, round(seconds * RATE))), RATE)
        code, out, err = run_asr("info", path, "--picture", tmp_path / "silence.png")
        assert (code, err) == (0, f"asr: {path} is silent; check that the microphone was on.\n")
        assert self.facts(out)["peak"] == "silence"
        assert (tmp_path / "silence.png").read_bytes().startswith(self.PNG)

    def test_a_recording_without_an_ending(self, run_asr: RunAsr, speech: Path) -> None:
        path = speech.with_name("speech")
        shutil.copy(speech, path)
        code, out, _ = run_asr("info", path)
        assert code == 0
        assert self.facts(out)["seconds"] == "1.5"

    @pytest.mark.parametrize("name", ["film.mkv", "film"])
    def test_a_track_can_be_chosen(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path, name: str
    ) -> None:
        path = tmp_path / name
        write_two_tracks(path)
        code, first, err = run_asr("info", path)
        assert code == 0
        assert f"asr: {path} has 2 audio tracks, and only track 1 is read" in one_sentence(err)
        assert run_asr("info", path, "--track", 1) == (0, first, "")
        code, second, err = run_asr("info", path, "--track", 2)
        assert (code, err) == (0, "")
        assert self.facts(first)["peak"] == "-12.2 dBFS"
        assert self.facts(second)["peak"] == "-32.3 dBFS"
        code, _, err = run_asr("info", path, "--track", 3)
        assert code == 2
        assert "has no audio track 3; choose one from 1 to 2" in one_sentence(err)
        code, _, err = run_asr("info", checkpoint, "--track", 1)
        assert code == 2
        assert "--track works for recordings only; omit it for the checkpoint" in one_sentence(err)

    def test_manifest(self, run_asr: RunAsr, tmp_path: Path) -> None:
        utterances = [
            Utterance("a", "a.wav", 1.0, "abba", "x"),
            Utterance("b", "b.wav", 2.0, "a cab", "y"),
            Utterance("c", "c.wav", 9.0, "bad", "y"),
        ]
        write_manifest(tmp_path / "m.json", utterances)
        picture = tmp_path / "m.png"
        code, out, err = run_asr("info", tmp_path / "m.json", "--picture", picture)
        assert (code, err) == (0, "")
        facts = self.facts(out)
        assert (facts["utterances"], facts["speakers"], facts["words"]) == ("3", "2", "4")
        assert facts["hours"] == "0.003"
        assert (facts["0"], facts["50"], facts["100"]) == ("%    1", "%   2", "%  9")
        assert (facts["'a'"], facts["'b'"], facts["'d'"]) == ("5", "4", "1")
        assert "' '  1" in out
        assert picture.read_bytes().startswith(self.PNG)

    def test_what_cannot_be_described(self, run_asr: RunAsr, tmp_path: Path, speech: Path) -> None:
        (tmp_path / "poem").write_text("A poem is none of the three.")
        (tmp_path / "broken.jsonl").write_text("{")
        (tmp_path / "broken.wav").write_text("text")
        (tmp_path / "old.pt").write_bytes(struct.pack("<Q", 8) * 9)
        for words, named in (
            ((tmp_path / "none",), "cannot be read (No such file"),
            ((tmp_path,), "is a folder"),
            ((tmp_path / "poem",), "is not a checkpoint, a manifest (JSONL) or a recording"),
            ((tmp_path / "broken.jsonl",), "line 1 is not JSON"),
            ((tmp_path / "broken.wav",), "not audio"),
            ((tmp_path / "old.pt",), "old.pt: "),
            ((speech, "--picture", tmp_path / "x.jpg"), "use the extension .png"),
            ((speech, "--picture", speech / "x.png"), "x.png cannot be written"),
        ):
            code, _, err = run_asr("info", *words)
            assert code == 2
            assert named in one_sentence(err)
