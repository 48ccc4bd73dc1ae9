"""`asr transcribe`: what it prints, what it writes and what it refuses."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from commands import RunAsr, one_sentence, transcribe
from recordings import RATE, TALK_SECONDS, make_noise, write_bad, write_encoded, write_good

from asr.audio import containers
from asr.audio.waveform import inspect_audio
from asr.cli.output import FORMATS
from asr.cli.transcribe import LONG_SECONDS
from asr.data.manifest import Utterance, write_manifest
from asr.decoder.hypothesis import Hypothesis, Word
from asr.endpoint import EndpointConfig
from asr.formats import to_ctm, to_textgrid
from asr.recognizer import OperatingPoint, Recognizer


class TestTranscribe:
    def test_one_file_gives_only_the_text(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        code, out, err = run_asr("transcribe", speech, "--checkpoint", checkpoint)
        assert (code, err) == (0, "")
        assert out == transcribe(speech, checkpoint) + "\n"
        assert len(out) > 5

    def test_several_give_path_and_text_in_order(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, recordings: Path
    ) -> None:
        code, out, err = run_asr("transcribe", speech, recordings, "--checkpoint", checkpoint)
        assert code == 0
        files = [speech, recordings / "b.wav", recordings / "deep" / "a.flac"]
        assert out == "".join(f"{file}\t{transcribe(file, checkpoint)}\n" for file in files)
        assert "3/3 recordings" in err

    def test_a_folder_of_one_still_names_it(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path
    ) -> None:
        code, out, _ = run_asr("transcribe", recordings / "deep", "--checkpoint", checkpoint)
        assert code == 0
        assert out.startswith(f"{recordings / 'deep' / 'a.flac'}\t")

    def test_all_doors_agree(self, run_asr: RunAsr, checkpoint: Path, recordings: Path) -> None:
        """Law 4."""
        files = [recordings / "b.wav", recordings / "deep" / "a.flac"]
        expected = {str(file): transcribe(file, checkpoint) for file in files}

        _, out, _ = run_asr("transcribe", recordings, "--checkpoint", checkpoint)
        assert dict(line.split("\t") for line in out.splitlines()) == expected

        _, out, _ = run_asr(
            "transcribe", recordings, "--checkpoint", checkpoint, "--format", "json"
        )
        records = [json.loads(line) for line in out.splitlines()]
        assert {record["path"]: record["text"] for record in records} == expected

        manifest = recordings / "all.jsonl"
        lengths = [len(soundfile.read(file)[0]) / RATE for file in files]
        write_manifest(
            manifest,
            [
                Utterance(file.stem, str(file), seconds, "some words")
                for file, seconds in zip(files, lengths, strict=True)
            ],
        )
        target = recordings / "evaluation"
        run_asr("evaluate", manifest, "--checkpoint", checkpoint, "--output", target)
        lines = (target / "hypotheses.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert {r["audio_filepath"]: r["pred_text"] for r in records} == expected

    def test_json(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        _, out, _ = run_asr("transcribe", speech, "--checkpoint", checkpoint, "--format", "json")
        (line,) = out.splitlines()
        record = json.loads(line)
        assert record.pop("path") == str(speech)
        assert record.pop("seconds") == 1.5
        assert record == Recognizer.load(checkpoint).transcribe(speech).to_dict()
        assert record["words"][0].keys() == {"text", "start", "end", "confidence"}

    def test_standard_input(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        text, content = transcribe(speech, checkpoint), speech.read_bytes()
        words = ["transcribe", "-", "--checkpoint", checkpoint]
        assert run_asr(*words, stdin=content) == (0, f"{text}\n", "")
        _, out, _ = run_asr(*words, "--format", "json", stdin=content)
        assert (json.loads(out)["path"], json.loads(out)["seconds"]) == ("-", 1.5)
        code, out, err = run_asr(*words, stdin=b"")
        assert (code, out) == (1, "")
        assert "standard input is empty" in one_sentence(err)
        code, _, err = run_asr("transcribe", "-", *words[1:])
        assert code == 2
        assert "once" in one_sentence(err)

    def test_a_pipe_can_be_read_once(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        pipe = speech.with_name("pipe")
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[speech.read_bytes()])
        writer.start()
        code, out, _ = run_asr("transcribe", pipe, "--checkpoint", checkpoint, "--format", "json")
        writer.join()
        assert code == 0
        assert json.loads(out)["text"] == transcribe(speech, checkpoint)

    def test_files_into_a_folder(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, recordings: Path
    ) -> None:
        target = recordings.parent / "new" / "texts"
        code, out, _ = run_asr(
            "transcribe", speech, recordings, "--checkpoint", checkpoint, "--output", target
        )
        assert (code, out) == (0, "")
        written = {
            str(path.relative_to(target)): path.read_text()
            for path in target.rglob("*")
            if path.is_file()
        }
        assert written == {
            "speech.txt": transcribe(speech, checkpoint) + "\n",
            "b.txt": transcribe(recordings / "b.wav", checkpoint) + "\n",
            "deep/a.txt": transcribe(recordings / "deep" / "a.flac", checkpoint) + "\n",
        }

    def test_two_recordings_never_share_a_transcript(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path
    ) -> None:
        soundfile.write(recordings / "b.flac", make_noise(1.0), RATE)
        target = recordings.parent / "texts"
        for inputs in ([recordings], [recordings / "b.wav", recordings / "b.wav"]):
            words = ["transcribe", *inputs, "--checkpoint", checkpoint, "-o", target]
            code, _, err = run_asr(*words)
            assert code == 2
            assert str(recordings / "b.wav") in one_sentence(err)
            assert str(target / "b.txt") in err
            assert not target.exists()

    def test_output_that_is_a_file(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        code, _, err = run_asr("transcribe", speech, "--checkpoint", checkpoint, "-o", speech)
        assert code == 2
        assert "is a file" in one_sentence(err)

    def test_a_dot_in_a_name_is_kept(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        path = speech.with_name("take.2.wav")
        speech.rename(path)
        run_asr("transcribe", path, "--checkpoint", checkpoint, "-o", path.parent / "texts")
        assert [p.name for p in (path.parent / "texts").iterdir()] == ["take.2.txt"]

    def test_a_name_that_is_not_unicode(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path
    ) -> None:
        os.rename(recordings / "b.wav", os.fsencode(recordings) + b"/\xff.wav")
        text = transcribe(recordings / "deep" / "a.flac", checkpoint)
        code, out, _ = run_asr("transcribe", recordings, "--checkpoint", checkpoint)
        assert code == 0
        assert f"{recordings}/deep/a.flac\t{text}\n" in out
        assert f"{recordings}/\\udcff.wav\t" in out

    def test_device_and_threads(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ["--checkpoint", checkpoint, "--device"]
        assert run_asr("transcribe", speech, *options, "cpu", "--threads", "2")[0] == 0
        assert torch.get_num_threads() == 2
        monkeypatch.undo()
        assert run_asr("transcribe", speech, *options, "auto")[0] == 0
        assert torch.get_num_threads() == len(os.sched_getaffinity(0))
        code, _, err = run_asr("transcribe", speech, *options, "toaster")
        assert code == 2
        assert "'toaster'" in one_sentence(err)


def test_latency_and_pause_act(run_asr: RunAsr, checkpoint: Path, talk: Path) -> None:
    texts = [transcribe(talk, checkpoint)]
    for words, latency, endpoint in (
        (("--pause", 3), None, EndpointConfig(silence=3)),
        (("--latency", 600), 600, EndpointConfig()),
        (("--latency", 600, "--pause", 0.05), 600, EndpointConfig(silence=0.05)),
        (("--latency", 600, "--pause", 0), 600, None),
    ):
        recognizer, point = Recognizer.load(checkpoint), OperatingPoint(latency, endpoint)
        code, out, _ = run_asr("transcribe", talk, "--checkpoint", checkpoint, *words)
        texts.append(recognizer.transcribe(talk, point).text)
        assert (code, out) == (0, f"{texts[-1]}\n")
    assert len(set(texts)) >= 4


class TestLong:
    """Recordings that are transcribed in chunks."""

    def test_all_doors_agree(self, run_asr: RunAsr, checkpoint: Path, talk: Path) -> None:
        """Law 4."""
        text = transcribe(talk, checkpoint)
        code, out, _ = run_asr("transcribe", talk, "--checkpoint", checkpoint)
        assert (code, out) == (0, f"{text}\n")
        words = ["transcribe", "-", "--checkpoint", checkpoint]
        assert run_asr(*words, stdin=talk.read_bytes())[1] == f"{text}\n"
        _, out, _ = run_asr("transcribe", talk.parent, "--checkpoint", checkpoint)
        assert out == f"{talk}\t{text}\n"
        manifest = talk.with_name("talk.jsonl")
        write_manifest(manifest, [Utterance("talk", str(talk), TALK_SECONDS, "words")])
        target = talk.parent / "evaluation"
        run_asr("evaluate", manifest, "--checkpoint", checkpoint, "--output", target)
        [line] = (target / "hypotheses.jsonl").read_text().splitlines()
        assert json.loads(line)["pred_text"] == text

    def test_a_bar_of_its_own(
        self, run_asr: RunAsr, checkpoint: Path, talk: Path, speech: Path
    ) -> None:
        """Plain lines, as stderr is no terminal; none for a short one, one bar for several."""
        _, _, err = run_asr("transcribe", talk, "--checkpoint", checkpoint)
        first, *_, last = err.splitlines()
        assert first == "transcribing: 0/63 s (0 %)"
        assert last.startswith("transcribing: 63/63 s (100 %) in 0:0")
        assert run_asr("transcribe", speech, "--checkpoint", checkpoint)[2] == ""
        _, _, err = run_asr("transcribe", talk, speech, "--checkpoint", checkpoint)
        assert err.startswith("transcribing: 0/2 recordings (0 %)\n")

    def test_damage_at_the_end(
        self, run_asr: RunAsr, checkpoint: Path, talk: Path, speech: Path
    ) -> None:
        samples = soundfile.read(talk)[0]
        samples[-1_000] = np.nan
        damaged = talk.with_name("damaged.wav")
        soundfile.write(damaged, samples, RATE, subtype="FLOAT")
        code, out, err = run_asr("transcribe", damaged, "--checkpoint", checkpoint)
        assert (code, out) == (1, "")
        *_, stopped, sentence = err.splitlines()
        assert "stopped after" in stopped
        assert sentence.startswith(f"asr: {damaged} contains samples that are not finite")
        code, out, err = run_asr("transcribe", damaged, speech, "--checkpoint", checkpoint)
        assert code == 1
        assert out.startswith(f"{speech}\t")
        assert len(out.splitlines()) == 1
        assert "1 of 2 recordings failed" in err

    def test_words_can_be_aligned(self, run_asr: RunAsr, checkpoint: Path, talk: Path) -> None:
        words = transcribe(talk, checkpoint).split()[-3:]
        code, out, _ = run_asr("align", talk, " ".join(words), "--checkpoint", checkpoint)
        assert code == 0
        found = json.loads(out)["words"]
        assert [word["text"] for word in found] == words
        assert found[-1]["end"] <= TALK_SECONDS


class TestOneReading:
    """A recording is opened and decoded once, whatever is printed about it."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
        """The recordings that were opened, each with the lengths of its decoded blocks."""
        opened: list[list[int]] = []
        honest = containers._choose_decoder

        def recognize(*arguments: Any) -> containers.Recording:
            recording = honest(*arguments)
            lengths: list[int] = []
            opened.append(lengths)
            blocks = recording.blocks
            recording.blocks = ([lengths.append(len(block)), block][1] for block in blocks)
            return recording

        monkeypatch.setattr(containers, "_choose_decoder", recognize)
        return opened

    @pytest.mark.parametrize("kind", ["txt", "json", "textgrid"])
    @pytest.mark.parametrize("ending", ["wav", "mp3", "m4a"])
    @pytest.mark.parametrize("seconds", [1.2345, 70.0])
    def test_transcribe(
        self,
        run_asr: RunAsr,
        checkpoint: Path,
        tmp_path: Path,
        opened: list[list[int]],
        kind: str,
        ending: str,
        seconds: float,
    ) -> None:
        path = write_encoded(tmp_path / f"x.{ending}", seconds, 44_100)
        info = inspect_audio(path)
        opened.clear()
        words = ["transcribe", path, "--checkpoint", checkpoint, "--format", kind]
        code, out, err = run_asr(*words)
        assert code == 0
        [lengths] = opened
        assert sum(lengths) == info.frames
        if kind == "json":
            assert json.loads(out)["seconds"] == round(info.seconds, 3)
        if kind == "textgrid":
            assert f"xmax = {info.seconds:.3f}\n" in out
        lines = err.splitlines()
        if seconds < LONG_SECONDS:
            assert lines == []
        else:
            assert lines[0].startswith("transcribing: 0/70 s (0 %)")
            assert lines[-1].startswith("transcribing: 70/70 s (100 %) in ")

    def test_a_length_that_no_header_states(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path, opened: list[list[int]]
    ) -> None:
        """The bar has no total and appears once the recording turns out to be long."""
        for seconds, lines in ((2.0, 0), (70.0, 2)):
            path = write_encoded(tmp_path / "x.flac", seconds, 44_100)
            content = bytearray(path.read_bytes())
            content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)  # the number of samples
            path.write_bytes(content)
            opened.clear()
            code, _, err = run_asr("transcribe", path, "--checkpoint", checkpoint)
            assert (code, len(opened), len(err.splitlines())) == (0, 1, lines)
        assert err.splitlines()[0].startswith("transcribing: 6")
        assert err.splitlines()[1].startswith("transcribing: 70 s in ")

    def test_several_and_standard_input(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path, opened: list[list[int]]
    ) -> None:
        words = ["--checkpoint", checkpoint, "--format", "json"]
        assert run_asr("transcribe", recordings, *words)[0] == 0
        assert len(opened) == 2
        content = (recordings / "b.wav").read_bytes()
        assert run_asr("transcribe", "-", *words, stdin=content)[0] == 0
        assert len(opened) == 3

    def test_other_commands(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, opened: list[list[int]]
    ) -> None:
        for words in (
            ("align", speech, "some words", "--checkpoint", checkpoint),
            ("info", speech),
            ("stream", speech, "--checkpoint", checkpoint),
        ):
            opened.clear()
            assert run_asr(*words)[0] == 0
            assert len(opened) == 1


class TestSubtitles:
    @pytest.fixture
    def say(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Let the recognizer find these (text, start, end) in every recording."""

        def say(*words: tuple[str, float, float]) -> None:
            found = tuple(Word(text, start, end, 0.5) for text, start, end in words)
            text = " ".join(word.text for word in found)
            hypothesis = Hypothesis(text, found, 0.5, -1.0)
            fake = SimpleNamespace(
                decoder=None,
                transcribe=lambda *_, **__: hypothesis,
                transcribe_many=lambda sources, **_: (
                    (i, hypothesis) for i, _ in enumerate(sources)
                ),
            )
            monkeypatch.setattr(Recognizer, "load", lambda *_: fake)

        return say

    WORDS = (("well", 0.04, 0.4), ("ask", 1.4, 1.6), ("<me>", 2.6014, 3.0), ("&", 3661.5, 3662.0))

    def test_srt(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, say: Callable[..., None]
    ) -> None:
        say(*self.WORDS)
        _, out, _ = run_asr("transcribe", speech, "--checkpoint", checkpoint, "--format", "srt")
        assert out == (
            "1\n00:00:00,040 --> 00:00:01,600\nwell ask\n\n"
            "2\n00:00:02,601 --> 00:00:03,000\n<me>\n\n"
            "3\n01:01:01,500 --> 01:01:02,000\n&\n"
        )

    def test_vtt(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, say: Callable[..., None]
    ) -> None:
        say(*self.WORDS)
        _, out, _ = run_asr("transcribe", speech, "--checkpoint", checkpoint, "--format", "vtt")
        assert out == (
            "WEBVTT\n\n"
            "00:00:00.040 --> 00:00:01.600\nwell ask\n\n"
            "00:00:02.601 --> 00:00:03.000\n&lt;me&gt;\n\n"
            "01:01:01.500 --> 01:01:02.000\n&amp;\n"
        )

    def test_lines_fit(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, say: Callable[..., None]
    ) -> None:
        words = ["abcdefghij"] * 9 + ["x" * 60] + ["y"]
        say(*((word, 0.1 * i, 0.1 * i + 0.1) for i, word in enumerate(words)))
        _, out, _ = run_asr("transcribe", speech, "--checkpoint", checkpoint, "--format", "srt")
        lines = [block.splitlines()[2] for block in out.split("\n\n")]
        assert [len(line) for line in lines] == [32, 32, 32, 60, 1]
        assert " ".join(lines).split() == words

    @pytest.mark.parametrize(("ending", "document"), [("srt", ""), ("vtt", "WEBVTT\n")])
    def test_nothing_said(
        self,
        run_asr: RunAsr,
        checkpoint: Path,
        speech: Path,
        say: Callable[..., None],
        ending: str,
        document: str,
    ) -> None:
        say()
        options = ["--checkpoint", checkpoint, "--format", ending, "-o", speech.parent]
        assert run_asr("transcribe", speech, *options)[0] == 0
        assert speech.with_suffix(f".{ending}").read_text() == document

    @pytest.mark.parametrize("name", ["srt", "textgrid"])
    def test_others_about_one_recording_need_a_folder_too(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path, name: str
    ) -> None:
        code, out, err = run_asr(
            "transcribe", recordings, "--checkpoint", checkpoint, "--format", name
        )
        assert (code, out) == (2, "")
        assert f"as {name}; choose a folder" in one_sentence(err)

    def test_several_need_a_folder(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path
    ) -> None:
        options = ["--checkpoint", checkpoint, "--format", "vtt"]
        code, out, err = run_asr("transcribe", recordings, *options)
        assert (code, out) == (2, "")
        assert "--output" in one_sentence(err)
        assert run_asr("transcribe", recordings, *options, "-o", recordings)[0] == 0
        assert (recordings / "deep" / "a.vtt").read_text().startswith("WEBVTT\n")

    def test_every_format_into_a_folder(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        for name in FORMATS:
            options = ["--checkpoint", checkpoint, "--format", name, "-o", speech.parent / "out"]
            assert run_asr("transcribe", speech, *options)[0] == 0
        written = {path.name: path.read_text() for path in (speech.parent / "out").iterdir()}
        assert sorted(written) == [
            "speech.TextGrid", "speech.ctm", "speech.json", "speech.srt", "speech.txt", "speech.vtt"
        ]  # fmt: skip
        hypothesis = Recognizer.load(checkpoint).transcribe(speech)
        assert written["speech.ctm"] == to_ctm(hypothesis, "speech.wav")
        assert written["speech.TextGrid"] == to_textgrid(hypothesis, 1.5)

    def test_ctm_of_several_is_one_stream(
        self,
        run_asr: RunAsr,
        checkpoint: Path,
        speech: Path,
        recordings: Path,
        say: Callable[..., None],
    ) -> None:
        say(("well", 0.04, 0.4))
        options = ["--checkpoint", checkpoint, "--format", "ctm"]
        _, out, _ = run_asr("transcribe", speech, recordings, *options)
        line = "1 0.040 0.360 well 0.5000\n"
        assert out == f"speech {line}b {line}a {line}"
        say()
        assert run_asr("transcribe", speech, recordings, *options)[:2] == (0, "")

    def test_one_ctm_stream_tells_recordings_apart(
        self, run_asr: RunAsr, checkpoint: Path, recordings: Path
    ) -> None:
        soundfile.write(recordings / "deep" / "b.wav", make_noise(1.0), RATE)
        options = ["--checkpoint", checkpoint, "--format", "ctm"]
        code, out, err = run_asr("transcribe", recordings, *options)
        assert (code, out) == (2, "")
        assert f"{recordings / 'b.wav'} and {recordings / 'deep' / 'b.wav'}" in one_sentence(err)
        assert run_asr("transcribe", recordings, *options, "-o", recordings)[0] == 0


class TestBadInput:
    def test_odd_recordings_are_transcribed(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path
    ) -> None:
        files = write_good(tmp_path / "good")
        code, out, err = run_asr("transcribe", *files, "--checkpoint", checkpoint)
        assert code == 0, err
        texts = dict(line.split("\t") for line in out.splitlines())
        assert list(texts) == [str(file) for file in files]
        empty = {Path(name).name for name, text in texts.items() if not text}
        assert empty >= {"silence.wav", "10-ms.wav"}
        # To this untrained model a spectrum without its upper half is like silence.
        assert empty - {"8k.wav"} == {"silence.wav", "10-ms.wav"}
        whole = texts[str(tmp_path / "good" / "float.wav")]
        for name in ("24-bit.wav", "8-channels.wav", "piped.wav"):
            assert texts[str(tmp_path / "good" / name)] == whole

    def test_each_bad_recording_alone(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path
    ) -> None:
        for path, word in write_bad(tmp_path / "bad").items():
            code, out, err = run_asr("transcribe", path, "--checkpoint", checkpoint)
            assert (code, out) == (1, "")
            assert str(path) in one_sentence(err)
            assert word in err

    def test_bad_ones_among_good_ones(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path
    ) -> None:
        good = write_good(tmp_path / "good")
        bad = write_bad(tmp_path / "bad")
        mixed = [path for pair in zip(good, bad, strict=False) for path in pair]
        code, out, err = run_asr("transcribe", *mixed, "--checkpoint", checkpoint)
        assert code == 1
        texts = dict(line.split("\t") for line in out.splitlines())
        assert texts == {str(file): transcribe(file, checkpoint) for file in good[: len(bad)]}
        listed = err[err.index(f"asr: {len(bad)} of ") :]
        assert listed.startswith(f"asr: {len(bad)} of {len(mixed)} recordings failed:\n")
        sentences = listed.splitlines()[1:]
        assert len(sentences) == len(bad)
        for path, word in bad.items():
            assert [s for s in sentences if str(path) in s and word in s and s.endswith(".")]

    def test_absurd_samples_fail_only_their_recording(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        loud = speech.with_name("loud.wav")
        soundfile.write(loud, np.full(RATE, 3e38, np.float32), RATE, subtype="FLOAT")
        code, out, err = run_asr("transcribe", loud, speech, "--checkpoint", checkpoint)
        assert code == 1
        assert out.startswith(f"{speech}\t")
        assert f"  {loud} contains samples above 1,000,000, although full scale is 1" in err


@pytest.mark.parametrize("command", ["transcribe", "info"])
@pytest.mark.parametrize("extension", ["mp3", "flac", "ogg"])
def test_what_is_damaged_is_told_and_the_rest_is_transcribed(
    run_asr: RunAsr, checkpoint: Path, tmp_path: Path, command: str, extension: str
) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, make_noise(20), RATE)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"x" * 4_000 + content[middle + 4_000 :])
    model = ("--checkpoint", checkpoint) if command == "transcribe" else ()
    code, out, err = run_asr(command, path, *model)
    assert code == 1
    assert len(out) > 5
    assert f"asr: {path} is damaged from " in err
    assert "nothing is recognized there" in err
    if command == "transcribe":
        _, out, _ = run_asr(command, path, *model, "--format", "json")
        [[start, end]] = json.loads(out)["gaps"]
        assert 9 < start < end < 12


@pytest.mark.parametrize("command", ["transcribe", "info"])
@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0, 0), "is silent;"),
        ((1e-3, 1e-3), "is very quiet"),
        ((50, 50), "is clipped"),
        ((1, -1), "is silent in mono"),
    ],
)
def test_a_level_that_is_hard_to_recognize_is_told(
    run_asr: RunAsr,
    checkpoint: Path,
    tmp_path: Path,
    command: str,
    gains: tuple[float, float],
    words: str,
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.clip(make_noise(2, channels=2) * gains, -1, 1), RATE)
    model = ("--checkpoint", checkpoint) if command == "transcribe" else ()
    code, _, err = run_asr(command, path, *model)
    assert code == 0
    assert f"asr: {path} {words}" in err


def test_a_transcript_that_cannot_be_written_is_the_failure_of_its_recording(
    run_asr: RunAsr, checkpoint: Path, speech: Path, tmp_path: Path
) -> None:
    names = ["a.wav", "..wav", f"{'n' * 249}.wav", f"{'é' * 120}.wav", "z.wav"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        shutil.copyfile(speech, path)
    output = tmp_path / "out"
    (output / "a.json").mkdir(parents=True)
    code, _, err = run_asr(
        "transcribe", "--checkpoint", checkpoint, "--format=json", "--output", output, *paths
    )
    assert code == 1
    assert "1 of 5 recordings failed" in err
    assert "a.json is a folder" in err
    written = {path.name for path in output.iterdir()} - {"a.json"}
    assert written == {"..wav.json", f"{'n' * 249}.json", f"{'é' * 120}.json", "z.json"}
