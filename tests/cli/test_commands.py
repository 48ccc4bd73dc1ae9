"""The command line: what it prints, what it writes, what it refuses, and its exit codes."""

import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch

from asr.checkpoint import save_model
from asr.cli.main import main
from asr.cli.output import FORMATS
from asr.data.manifest import Utterance, write_manifest
from asr.decoder.alignment import align
from asr.decoder.hypothesis import Hypothesis, Word
from asr.encoder import EncoderConfig
from asr.endpoint import EndpointConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.formats import to_ctm, to_srt, to_textgrid, to_vtt
from asr.model import AcousticModel
from asr.recognizer import BATCH_SECONDS, OperatingPoint, Recognizer
from asr.runtime import distributed as asr_distributed
from asr.runtime.distributed import RuntimeConfig
from asr.scoring import score
from asr.text import Vocabulary

Run = Callable[..., tuple[int, str, str]]
RATE = 16_000


def make_noise(seconds: float, sample_rate: int = RATE, channels: int = 1) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal(round(seconds * sample_rate))
    swell = np.sin(np.arange(len(noise)) * 25 / sample_rate) ** 8
    return np.repeat((0.2 * swell * noise)[:, None], channels, axis=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that writes much of noise and nothing of silence."""
    torch.manual_seed(7)
    vocabulary = Vocabulary.english()
    model = AcousticModel(
        FeaturesConfig(mels=40), EncoderConfig(layers=1, hidden=24), len(vocabulary)
    ).eval()
    with torch.no_grad():
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
        model.head.weight.mul_(4)
        log_probs = model.emit([np.zeros(RATE, np.float32)]).log_probs[0]  # (T', V)
        model.head.bias[0] += (log_probs.max(dim=-1).values - log_probs[:, 0]).max() + 0.1
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_model(path, model, vocabulary, {"epoch": 4, "step": 1200, "dev_wer": 0.1234567})
    return path


@pytest.fixture
def asr(
    capfd: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run a command in this process: (exit code, stdout, stderr). CHECKPOINT is filled in."""
    # Threads gain nothing on seconds of audio.
    monkeypatch.setattr("asr.runtime.distributed.count_cores", lambda: 1)

    def run(*words: object) -> tuple[int, str, str]:
        argv = [str(checkpoint) if word == "CHECKPOINT" else str(word) for word in words]
        capfd.readouterr()
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, make_noise(1.5), RATE)
    return path


TALK_SECONDS = 63.0


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A long recording with pauses, in a folder of its own."""
    path = tmp_path / "talk" / "talk.wav"
    path.parent.mkdir()
    samples = make_noise(TALK_SECONDS)[:, 0]
    samples[np.arange(len(samples)) / RATE % 7 > 5.5] = 0
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings at two depths, and a file that is none."""
    root = tmp_path / "folder"
    (root / "deep").mkdir(parents=True)
    soundfile.write(root / "b.wav", make_noise(1.0), RATE)
    soundfile.write(root / "deep" / "a.flac", make_noise(1.2), RATE)
    (root / "notes.md").write_text("not a recording")
    return root


def transcribe(path: Path, checkpoint: Path) -> str:
    return Recognizer.load(checkpoint).transcribe(path).text


def one_sentence(err: str) -> str:
    """The only line of `err`: a sentence of asr's."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("asr: ")
    assert lines[0].endswith(".")
    return lines[0]


class TestProgram:
    def test_help_is_light_and_fast(self) -> None:
        """Law 6."""
        script = (
            "import sys\n"
            "from asr.cli.main import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'numpy', 'numba', 'hydra', 'omegaconf', 'rich', 'soundfile', 'jiwer'}\n"
            "print('loaded:', sorted(heavy & set(sys.modules)))"
        )

        def used() -> float:
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            return usage.ru_utime + usage.ru_stime

        seconds = []
        for _ in range(3):
            before = used()
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True
            )
            seconds.append(used() - before)  # of the processor: other programs do not count
        assert "loaded: []" in done.stdout
        for command in ("transcribe", "stream", "align", "evaluate", "score", "lm", "info"):
            assert command in done.stdout
        assert min(seconds) < 0.3

    def test_version(self, asr: Run) -> None:
        code, out, _ = asr("--version")
        assert (code, out.split()[0]) == (0, "asr")
        assert out.split()[1][0].isdigit()

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ((), "COMMAND"),
            (("sing",), "sing"),
            (("tune", "a.jsonl", "--trials", "0"), "'0'"),
            (("transcribe", "--checkpoint", "x"), "FILE|FOLDER|-"),
            (("transcribe", "a.wav", "--checkpoint", "x", "--form", "txt"), "--form"),
            (("transcribe", "a.wav", "--checkpoint", "x", "--format", "doc"), "doc"),
            (("transcribe", "a.wav", "--checkpoint", "x", "--threads", "0"), "'0'"),
            (("align", "a.wav", "--checkpoint", "x"), "TEXT"),
            (("align", "a.wav", "text", "--checkpoint", "x", "--format", "txt"), "'txt'"),
            (("evaluate", "m.jsonl", "--checkpoint", "x", "--profile", "klingon"), "klingon"),
            (("evaluate", "m.jsonl", "--checkpoint", "x", "--processes", "two"), "'two'"),
            (("score", "ref"), "HYP"),
            (("info", "a.wav", "b.wav"), "b.wav"),
            (("lm",), "COMMAND"),
            (("lm", "sing"), "sing"),
            (("lm", "train", "a.txt"), "--output"),
            (("lm", "train", "-o", "a.lm"), "TEXT"),
            (("lm", "train", "a.txt", "-o", "a.lm", "--order", "three"), "'three'"),
            (("lm", "train", "--prune", "0", "a.txt", "-o", "a.lm"), "'a.txt' is no count"),
            (("lm", "train", "a.txt", "-o", "a.lm", "--prune", "0", "-1"), "'-1' is no count"),
            (("lm", "train", "a.txt", "-o", "a.lm", "--vocabulary-limit", "0"), "'0'"),
            (("lm", "perplexity", "a.lm"), "TEXT"),
            (("lm", "convert", "a.lm"), "OUT"),
        ],
    )
    def test_wrong_usage(self, asr: Run, words: tuple[str, ...], named: str) -> None:
        code, out, err = asr(*words)
        assert (code, out) == (2, "")
        assert err.startswith("usage: asr")
        assert named in err

    @pytest.mark.parametrize(
        "command",
        [
            "transcribe", "align", "evaluate", "score", "info",
            "lm", "lm train", "lm info", "lm perplexity", "lm convert",
        ],
    )  # fmt: skip
    def test_every_command_explains_itself(self, asr: Run, command: str) -> None:
        code, out, err = asr(*command.split(), "--help")
        assert (code, err) == (0, "")
        assert f"usage: asr {command}" in out

    def test_a_reader_that_leaves(self, tmp_path: Path) -> None:
        (tmp_path / "ref").write_text("a some words\n")
        program = subprocess.Popen(
            [sys.executable, "-m", "asr", "score", tmp_path / "ref", tmp_path / "ref"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdout is not None
        program.stdout.close()
        _, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (141, b"")

    def test_interrupted(self, asr: Run, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Recognizer, "_load", interrupt)
        monkeypatch.setattr(Recognizer, "load", interrupt)
        code, out, err = asr("transcribe", speech, "--checkpoint", "CHECKPOINT")
        assert (code, out, err) == (130, "", "asr: interrupted.\n")

    def test_transcription_needs_no_optional_or_heavy_package(
        self, checkpoint: Path, speech: Path
    ) -> None:
        """Law 6."""
        script = (
            "import sys\n"
            "for name in ('torchaudio', 'librosa', 'matplotlib', 'hydra', 'jiwer', 'av', 'scipy'):\n"
            "    sys.modules[name] = None\n"
            "from asr.cli.main import main\n"
            f"sys.exit(main(['transcribe', {str(speech)!r}, '--checkpoint', {str(checkpoint)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{transcribe(speech, checkpoint)}\n"


class TestTranscribe:
    def test_one_file_gives_only_the_text(self, asr: Run, checkpoint: Path, speech: Path) -> None:
        code, out, err = asr("transcribe", speech, "--checkpoint", "CHECKPOINT")
        assert (code, err) == (0, "")
        assert out == transcribe(speech, checkpoint) + "\n"
        assert len(out) > 5

    def test_several_give_path_and_text_in_order(
        self, asr: Run, checkpoint: Path, speech: Path, folder: Path
    ) -> None:
        code, out, err = asr("transcribe", speech, folder, "--checkpoint", "CHECKPOINT")
        assert code == 0
        files = [speech, folder / "b.wav", folder / "deep" / "a.flac"]
        assert out == "".join(f"{file}\t{transcribe(file, checkpoint)}\n" for file in files)
        assert "3/3 recordings" in err

    def test_a_folder_of_one_still_names_it(self, asr: Run, folder: Path) -> None:
        code, out, _ = asr("transcribe", folder / "deep", "--checkpoint", "CHECKPOINT")
        assert code == 0
        assert out.startswith(f"{folder / 'deep' / 'a.flac'}\t")

    def test_all_doors_agree(self, asr: Run, checkpoint: Path, folder: Path) -> None:
        """Law 4."""
        files = [folder / "b.wav", folder / "deep" / "a.flac"]
        expected = {str(file): transcribe(file, checkpoint) for file in files}

        _, out, _ = asr("transcribe", folder, "--checkpoint", "CHECKPOINT")
        assert dict(line.split("\t") for line in out.splitlines()) == expected

        _, out, _ = asr("transcribe", folder, "--checkpoint", "CHECKPOINT", "--format", "json")
        records = [json.loads(line) for line in out.splitlines()]
        assert {record["path"]: record["text"] for record in records} == expected

        manifest = folder / "all.jsonl"
        lengths = [len(soundfile.read(file)[0]) / RATE for file in files]
        write_manifest(
            manifest,
            [
                Utterance(file.stem, str(file), seconds, "some words")
                for file, seconds in zip(files, lengths, strict=True)
            ],
        )
        target = folder / "evaluation"
        asr("evaluate", manifest, "--checkpoint", "CHECKPOINT", "--output", target)
        lines = (target / "hypotheses.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert {r["audio_filepath"]: r["pred_text"] for r in records} == expected

    def test_json(self, asr: Run, checkpoint: Path, speech: Path) -> None:
        _, out, _ = asr("transcribe", speech, "--checkpoint", "CHECKPOINT", "--format", "json")
        (line,) = out.splitlines()
        record = json.loads(line)
        assert record.pop("path") == str(speech)
        assert record.pop("seconds") == 1.5
        assert record == Recognizer.load(checkpoint).transcribe(speech).to_dict()
        assert record["words"][0].keys() == {"text", "start", "end", "confidence"}

    def test_standard_input(
        self, asr: Run, checkpoint: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def feed(content: bytes) -> None:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

        text = transcribe(speech, checkpoint)
        feed(speech.read_bytes())
        code, out, err = asr("transcribe", "-", "--checkpoint", "CHECKPOINT")
        assert (code, out, err) == (0, f"{text}\n", "")
        feed(speech.read_bytes())
        _, out, _ = asr("transcribe", "-", "--checkpoint", "CHECKPOINT", "--format", "json")
        assert (json.loads(out)["path"], json.loads(out)["seconds"]) == ("-", 1.5)
        feed(b"")
        code, out, err = asr("transcribe", "-", "--checkpoint", "CHECKPOINT")
        assert (code, out) == (1, "")
        assert "standard input is empty" in one_sentence(err)
        code, _, err = asr("transcribe", "-", "-", "--checkpoint", "CHECKPOINT")
        assert code == 2
        assert "once" in one_sentence(err)

    def test_a_pipe_can_be_read_once(self, asr: Run, checkpoint: Path, speech: Path) -> None:
        pipe = speech.with_name("pipe")
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[speech.read_bytes()])
        writer.start()
        code, out, _ = asr("transcribe", pipe, "--checkpoint", "CHECKPOINT", "--format", "json")
        writer.join()
        assert code == 0
        assert json.loads(out)["text"] == transcribe(speech, checkpoint)

    def test_files_into_a_folder(
        self, asr: Run, checkpoint: Path, speech: Path, folder: Path
    ) -> None:
        target = folder.parent / "new" / "texts"
        code, out, _ = asr(
            "transcribe", speech, folder, "--checkpoint", "CHECKPOINT", "--output", target
        )
        assert (code, out) == (0, "")
        written = {
            str(path.relative_to(target)): path.read_text()
            for path in target.rglob("*")
            if path.is_file()
        }
        assert written == {
            "speech.txt": transcribe(speech, checkpoint) + "\n",
            "b.txt": transcribe(folder / "b.wav", checkpoint) + "\n",
            "deep/a.txt": transcribe(folder / "deep" / "a.flac", checkpoint) + "\n",
        }

    def test_two_recordings_never_share_a_transcript(self, asr: Run, folder: Path) -> None:
        soundfile.write(folder / "b.flac", make_noise(1.0), RATE)
        target = folder.parent / "texts"
        for inputs in ([folder], [folder / "b.wav", folder / "b.wav"]):
            words = ["transcribe", *inputs, "--checkpoint", "CHECKPOINT", "-o", target]
            code, _, err = asr(*words)
            assert code == 2
            assert str(folder / "b.wav") in one_sentence(err)
            assert str(target / "b.txt") in err
            assert not target.exists()

    def test_output_that_is_a_file(self, asr: Run, speech: Path) -> None:
        code, _, err = asr("transcribe", speech, "--checkpoint", "CHECKPOINT", "-o", speech)
        assert code == 2
        assert "is a file" in one_sentence(err)

    def test_a_dot_in_a_name_is_kept(self, asr: Run, speech: Path) -> None:
        path = speech.with_name("take.2.wav")
        speech.rename(path)
        asr("transcribe", path, "--checkpoint", "CHECKPOINT", "-o", path.parent / "texts")
        assert [p.name for p in (path.parent / "texts").iterdir()] == ["take.2.txt"]

    def test_a_name_that_is_not_unicode(self, asr: Run, checkpoint: Path, folder: Path) -> None:
        os.rename(folder / "b.wav", os.fsencode(folder) + b"/\xff.wav")
        text = transcribe(folder / "deep" / "a.flac", checkpoint)
        code, out, _ = asr("transcribe", folder, "--checkpoint", "CHECKPOINT")
        assert code == 0
        assert f"{folder}/deep/a.flac\t{text}\n" in out
        assert f"{folder}/\\udcff.wav\t" in out

    def test_device_and_threads(
        self, asr: Run, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ["--checkpoint", "CHECKPOINT", "--device"]
        assert asr("transcribe", speech, *options, "cpu", "--threads", "2")[0] == 0
        assert torch.get_num_threads() == 2
        monkeypatch.undo()
        assert asr("transcribe", speech, *options, "auto")[0] == 0
        assert torch.get_num_threads() == len(os.sched_getaffinity(0))
        code, _, err = asr("transcribe", speech, *options, "toaster")
        assert code == 2
        assert "'toaster'" in one_sentence(err)


def test_latency_and_pause_act(asr: Run, checkpoint: Path, talk: Path) -> None:
    texts = [transcribe(talk, checkpoint)]
    for words, latency, endpoint in (
        (("--pause", 3), None, EndpointConfig(silence=3)),
        (("--latency", 600), 600, EndpointConfig()),
        (("--latency", 600, "--pause", 0.05), 600, EndpointConfig(silence=0.05)),
        (("--latency", 600, "--pause", 0), 600, None),
    ):
        recognizer, point = Recognizer.load(checkpoint), OperatingPoint(latency, endpoint)
        code, out, _ = asr("transcribe", talk, "--checkpoint", "CHECKPOINT", *words)
        texts.append(recognizer.transcribe(talk, point).text)
        assert (code, out) == (0, f"{texts[-1]}\n")
    assert len(set(texts)) >= 4


class TestLong:
    """Recordings that are heard in chunks."""

    def test_all_doors_agree(
        self, asr: Run, checkpoint: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Law 4."""
        text = transcribe(talk, checkpoint)
        code, out, _ = asr("transcribe", talk, "--checkpoint", "CHECKPOINT")
        assert (code, out) == (0, f"{text}\n")
        stdin = SimpleNamespace(buffer=io.BytesIO(talk.read_bytes()))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert asr("transcribe", "-", "--checkpoint", "CHECKPOINT")[1] == f"{text}\n"
        _, out, _ = asr("transcribe", talk.parent, "--checkpoint", "CHECKPOINT")
        assert out == f"{talk}\t{text}\n"
        manifest = talk.with_name("talk.jsonl")
        write_manifest(manifest, [Utterance("talk", str(talk), TALK_SECONDS, "words")])
        target = talk.parent / "evaluation"
        asr("evaluate", manifest, "--checkpoint", "CHECKPOINT", "--output", target)
        [line] = (target / "hypotheses.jsonl").read_text().splitlines()
        assert json.loads(line)["pred_text"] == text

    def test_a_bar_of_its_own(self, asr: Run, talk: Path, speech: Path) -> None:
        """Plain lines, as stderr is no terminal; none for a short one, one bar for several."""
        _, _, err = asr("transcribe", talk, "--checkpoint", "CHECKPOINT")
        first, *_, last = err.splitlines()
        assert first == "transcribing: 0/63 s (0 %)"
        assert last.startswith("transcribing: 63/63 s (100 %) in 0:0")
        assert asr("transcribe", speech, "--checkpoint", "CHECKPOINT")[2] == ""
        _, _, err = asr("transcribe", talk, speech, "--checkpoint", "CHECKPOINT")
        assert err.startswith("transcribing: 0/2 recordings (0 %)\n")

    def test_damage_at_the_end(self, asr: Run, talk: Path, speech: Path) -> None:
        samples = soundfile.read(talk)[0]
        samples[-1_000] = np.nan
        damaged = talk.with_name("damaged.wav")
        soundfile.write(damaged, samples, RATE, subtype="FLOAT")
        code, out, err = asr("transcribe", damaged, "--checkpoint", "CHECKPOINT")
        assert (code, out) == (1, "")
        *_, stopped, sentence = err.splitlines()
        assert "stopped after" in stopped
        assert sentence.startswith(f"asr: {damaged} holds samples that are not finite")
        code, out, err = asr("transcribe", damaged, speech, "--checkpoint", "CHECKPOINT")
        assert code == 1
        assert out.startswith(f"{speech}\t")
        assert len(out.splitlines()) == 1
        assert "1 of 2 recordings failed" in err

    def test_words_can_be_aligned(self, asr: Run, checkpoint: Path, talk: Path) -> None:
        words = transcribe(talk, checkpoint).split()[-3:]
        code, out, _ = asr("align", talk, " ".join(words), "--checkpoint", "CHECKPOINT")
        assert code == 0
        found = json.loads(out)["words"]
        assert [word["text"] for word in found] == words
        assert found[-1]["end"] <= TALK_SECONDS


class TestSubtitles:
    @pytest.fixture
    def say(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Let the recognizer hear these (text, start, end), whatever it is given."""

        def say(*words: tuple[str, float, float]) -> None:
            found = tuple(Word(text, start, end, 0.5) for text, start, end in words)
            text = " ".join(word.text for word in found)
            hypothesis = Hypothesis(text, found, 0.5, -1.0)
            fake = SimpleNamespace(
                transcribe_many=lambda sources, **_: (
                    (i, hypothesis) for i, _ in enumerate(sources)
                )
            )
            monkeypatch.setattr(Recognizer, "load", lambda *_: fake)

        return say

    WORDS = (("well", 0.04, 0.4), ("ask", 1.4, 1.6), ("<me>", 2.6004, 3.0), ("&", 3661.5, 3662.0))

    def test_srt(self, asr: Run, speech: Path, say: Callable[..., None]) -> None:
        say(*self.WORDS)
        _, out, _ = asr("transcribe", speech, "--checkpoint", "CHECKPOINT", "--format", "srt")
        assert out == (
            "1\n00:00:00,040 --> 00:00:01,600\nwell ask\n\n"
            "2\n00:00:02,600 --> 00:00:03,000\n<me>\n\n"
            "3\n01:01:01,500 --> 01:01:02,000\n&\n"
        )

    def test_vtt(self, asr: Run, speech: Path, say: Callable[..., None]) -> None:
        say(*self.WORDS)
        _, out, _ = asr("transcribe", speech, "--checkpoint", "CHECKPOINT", "--format", "vtt")
        assert out == (
            "WEBVTT\n\n"
            "00:00:00.040 --> 00:00:01.600\nwell ask\n\n"
            "00:00:02.600 --> 00:00:03.000\n&lt;me&gt;\n\n"
            "01:01:01.500 --> 01:01:02.000\n&amp;\n"
        )

    def test_lines_fit(self, asr: Run, speech: Path, say: Callable[..., None]) -> None:
        words = ["abcdefghij"] * 9 + ["x" * 60] + ["y"]
        say(*((word, 0.1 * i, 0.1 * i + 0.1) for i, word in enumerate(words)))
        _, out, _ = asr("transcribe", speech, "--checkpoint", "CHECKPOINT", "--format", "srt")
        lines = [block.splitlines()[2] for block in out.split("\n\n")]
        assert [len(line) for line in lines] == [32, 32, 32, 60, 1]
        assert " ".join(lines).split() == words

    @pytest.mark.parametrize(("ending", "document"), [("srt", ""), ("vtt", "WEBVTT\n")])
    def test_nothing_said(
        self, asr: Run, speech: Path, say: Callable[..., None], ending: str, document: str
    ) -> None:
        say()
        options = ["--checkpoint", "CHECKPOINT", "--format", ending, "-o", speech.parent]
        assert asr("transcribe", speech, *options)[0] == 0
        assert speech.with_suffix(f".{ending}").read_text() == document

    @pytest.mark.parametrize("name", ["srt", "textgrid"])
    def test_others_about_one_recording_need_a_folder_too(
        self, asr: Run, folder: Path, name: str
    ) -> None:
        code, out, err = asr("transcribe", folder, "--checkpoint", "CHECKPOINT", "--format", name)
        assert (code, out) == (2, "")
        assert f"as {name}; choose a folder" in one_sentence(err)

    def test_several_need_a_folder(self, asr: Run, folder: Path) -> None:
        options = ["--checkpoint", "CHECKPOINT", "--format", "vtt"]
        code, out, err = asr("transcribe", folder, *options)
        assert (code, out) == (2, "")
        assert "--output" in one_sentence(err)
        assert asr("transcribe", folder, *options, "-o", folder)[0] == 0
        assert (folder / "deep" / "a.vtt").read_text().startswith("WEBVTT\n")

    def test_every_format_into_a_folder(self, asr: Run, checkpoint: Path, speech: Path) -> None:
        for name in FORMATS:
            options = ["--checkpoint", "CHECKPOINT", "--format", name, "-o", speech.parent / "out"]
            assert asr("transcribe", speech, *options)[0] == 0
        written = {path.name: path.read_text() for path in (speech.parent / "out").iterdir()}
        assert sorted(written) == [
            "speech.TextGrid", "speech.ctm", "speech.json", "speech.srt", "speech.txt", "speech.vtt"
        ]  # fmt: skip
        hypothesis = Recognizer.load(checkpoint).transcribe(speech)
        assert written["speech.ctm"] == to_ctm(hypothesis, "speech.wav")
        assert written["speech.TextGrid"] == to_textgrid(hypothesis, 1.5)

    def test_ctm_of_several_is_one_stream(
        self, asr: Run, speech: Path, folder: Path, say: Callable[..., None]
    ) -> None:
        say(("well", 0.04, 0.4))
        options = ["--checkpoint", "CHECKPOINT", "--format", "ctm"]
        _, out, _ = asr("transcribe", speech, folder, *options)
        line = "1 0.040 0.360 well 0.5000\n"
        assert out == f"speech {line}b {line}a {line}"
        say()
        assert asr("transcribe", speech, folder, *options)[:2] == (0, "")

    def test_one_ctm_stream_tells_recordings_apart(self, asr: Run, folder: Path) -> None:
        soundfile.write(folder / "deep" / "b.wav", make_noise(1.0), RATE)
        options = ["--checkpoint", "CHECKPOINT", "--format", "ctm"]
        code, out, err = asr("transcribe", folder, *options)
        assert (code, out) == (2, "")
        assert f"{folder / 'b.wav'} and {folder / 'deep' / 'b.wav'}" in one_sentence(err)
        assert asr("transcribe", folder, *options, "-o", folder)[0] == 0


class TestAlign:
    TEXT = "Some words, said!"

    @pytest.fixture
    def found(self, checkpoint: Path, speech: Path) -> Hypothesis:
        """What the library finds for the same words."""
        recognizer = Recognizer.load(checkpoint)
        [(_, [(_, log_probs)])] = recognizer.emissions([str(speech)])
        seconds = recognizer.model.frame_seconds
        return align(log_probs, "some words said", recognizer.vocabulary, seconds)

    def test_json(self, asr: Run, speech: Path, found: Hypothesis) -> None:
        code, out, err = asr("align", speech, self.TEXT, "--checkpoint", "CHECKPOINT")
        assert (code, err) == (0, "")
        (line,) = out.splitlines()
        record = json.loads(line)
        assert record == {"path": str(speech), "seconds": 1.5, **found.to_dict()}
        assert [word["text"] for word in record["words"]] == ["some", "words", "said"]

    def test_formats_and_output(self, asr: Run, speech: Path, found: Hypothesis) -> None:
        documents = {
            "ctm": to_ctm(found, "speech.wav"),
            "textgrid": to_textgrid(found, 1.5),
            "srt": to_srt(found),
            "vtt": to_vtt(found),
        }
        output = speech.parent / "new" / "file"
        for name, document in documents.items():
            words = ["align", speech, self.TEXT, "--checkpoint", "CHECKPOINT", "--format", name]
            assert asr(*words) == (0, document, "")
            assert asr(*words, "--output", output) == (0, "", "")
            assert output.read_text() == document

    def test_its_own_transcript_is_where_it_was_heard(
        self, asr: Run, checkpoint: Path, speech: Path
    ) -> None:
        heard = Recognizer.load(checkpoint).transcribe(speech)
        words = ["align", speech, heard.text, "--profile", "plain", "--checkpoint", "CHECKPOINT"]
        _, out, _ = asr(*words, "--format", "ctm")
        assert out == to_ctm(heard, "speech.wav")

    def test_text_from_a_file_and_from_standard_input(
        self, asr: Run, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = asr("align", speech, self.TEXT, "--checkpoint", "CHECKPOINT")
        content = b"\xef\xbb\xbfSome\r\nwords\r\n\r\nsaid\r\n"
        speech.with_suffix(".TXT").write_bytes(content)
        options = ["--checkpoint", "CHECKPOINT", "--profile", "plain"]
        assert asr("align", speech, speech.with_suffix(".TXT"), *options) == expected
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert asr("align", speech, "-", *options) == expected

    def test_a_recording_from_standard_input(
        self, asr: Run, speech: Path, found: Hypothesis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stdin = SimpleNamespace(buffer=io.BytesIO(speech.read_bytes()))
        monkeypatch.setattr(sys, "stdin", stdin)
        _, out, _ = asr("align", "-", self.TEXT, "--checkpoint", "CHECKPOINT")
        assert json.loads(out) == {"path": "-", "seconds": 1.5, **found.to_dict()}

    def test_a_word_is_no_file(
        self, asr: Run, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(speech.parent)
        Path("yes").write_text("no")
        _, out, _ = asr("align", speech, "yes", "--checkpoint", "CHECKPOINT")
        assert json.loads(out)["text"] == "yes"

    def test_what_is_refused(self, asr: Run, speech: Path) -> None:
        folder = speech.parent
        (folder / "words.lab").write_text("some words")
        (folder / "latin.txt").write_bytes(b"caf\xe9")
        (folder / "empty.txt").write_text(" ...\n")
        (folder / "text.wav").write_text("no recording")
        soundfile.write(folder / "10-ms.wav", make_noise(0.01), RATE)
        long = "a sentence. of many words " * 20
        for audio, text, *options, named in (
            (folder / "none.wav", "words", "none.wav does not exist"),
            (folder / "text.wav", "words", "text.wav"),
            (folder, "words", "is a folder"),
            (speech, folder / "none.txt", "none.txt cannot be read (No such file"),
            (speech, folder / "latin.txt", "latin.txt is not UTF-8"),
            (speech, folder / "empty.txt", "The transcript of"),
            (speech, folder / "words.lab", "words.lab is a file, but no .txt"),
            (speech, "", "empty text"),
            (speech, "5 words", "holds '5' (U+0035)"),
            (speech, self.TEXT, "--profile", "plain", "holds ',' (U+002C), '!' (U+0021)"),
            (speech, long, "frames (19.96 s)"),
            (folder / "10-ms.wav", "words", "10-ms.wav needs 5 frames (0.20 s)"),
            ("-", "-", "only once"),
            (speech, "words", "-o", folder, "name a file for --output"),
            (speech, "words", "-o", speech / "x", "x could not be written"),
            (speech, "words", "--device", "toaster", "'toaster'"),
        ):
            words = ["align", audio, text, "--checkpoint", "CHECKPOINT", *options]
            code, out, err = asr(*words)
            assert (code, out) == (2, "")
            assert named in one_sentence(err)


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
    flac[len(flac) // 3 : len(flac) // 2] = b"\x55" * (len(flac) // 2 - len(flac) // 3)
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


def run_program(*words: object, **streams: Any) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, whose streams can be closed."""
    code = "import sys; from asr.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **streams)


class TestStreams:
    def test_a_full_or_closed_output_is_one_sentence(self, checkpoint: Path) -> None:
        with open("/dev/full", "w") as full:
            done = run_program("info", checkpoint, stdout=full)
        assert done.returncode == 2
        assert one_sentence(done.stderr).startswith("asr: standard output cannot be written (No sp")
        done = run_program("info", checkpoint, preexec_fn=lambda: os.close(1))
        assert (done.returncode, done.stderr) == (2, "asr: standard output is closed.\n")

    def test_a_closed_input_is_an_empty_one(self, checkpoint: Path) -> None:
        words = ("transcribe", "-", "--checkpoint", checkpoint)
        done = run_program(*words, preexec_fn=lambda: os.close(0))
        assert done.returncode == 1
        assert "is empty (0 bytes)" in done.stderr
        assert "Traceback" not in done.stderr


class TestBadInput:
    def test_misspelled_options_are_told_by_their_command(self, asr: Run, speech: Path) -> None:
        code, _, err = asr("stream", "--nbest", "3", speech, "--checkpoint", "CHECKPOINT")
        assert code == 2
        assert err.startswith("usage: asr stream")
        assert err.endswith("unrecognized arguments: --nbest\n")

    def test_more_threads_than_any_machine_has(self, asr: Run, speech: Path) -> None:
        for words in (
            ("transcribe", speech, "--threads", 2**31),
            ("evaluate", speech, "--processes", 9999),
        ):
            code, _, err = asr(*words, "--checkpoint", "CHECKPOINT")
            assert (code, err.endswith("is more than any machine has: 1024 at most\n")) == (2, True)
        with pytest.raises(ConfigError, match="threads is 0; it must be from 1 to 1,024"):
            Recognizer.load("none.pt", threads=0)
        with pytest.raises(ConfigError, match=r"runtime\.processes is 9999"):
            RuntimeConfig(processes=9999)

    def test_outputs_that_cannot_be_written_are_told_before_the_work(
        self, asr: Run, checkpoint: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        for words in (
            ("evaluate", "none.jsonl", "-o", tmp_path / "file"),
            ("tune", "none.jsonl", "-o", tmp_path / "file" / "x.pt"),
        ):
            code, out, err = asr(*words, "--checkpoint", "CHECKPOINT")
            assert (code, out) == (2, "")
            assert "cannot be written" in one_sentence(err)

    def test_odd_recordings_are_transcribed(
        self, asr: Run, checkpoint: Path, tmp_path: Path
    ) -> None:
        files = write_good(tmp_path / "good")
        code, out, err = asr("transcribe", *files, "--checkpoint", "CHECKPOINT")
        assert code == 0, err
        texts = dict(line.split("\t") for line in out.splitlines())
        assert list(texts) == [str(file) for file in files]
        empty = {Path(name).name for name, text in texts.items() if not text}
        assert empty >= {"silence.wav", "10-ms.wav"}
        # This model was never trained: a spectrum without its upper half is like silence to it.
        assert empty - {"8k.wav"} == {"silence.wav", "10-ms.wav"}
        whole = texts[str(tmp_path / "good" / "float.wav")]
        for name in ("24-bit.wav", "8-channels.wav", "piped.wav"):
            assert texts[str(tmp_path / "good" / name)] == whole

    def test_each_bad_recording_alone(self, asr: Run, tmp_path: Path) -> None:
        for path, word in write_bad(tmp_path / "bad").items():
            code, out, err = asr("transcribe", path, "--checkpoint", "CHECKPOINT")
            assert (code, out) == (1, "")
            assert str(path) in one_sentence(err)
            assert word in err

    def test_bad_ones_among_good_ones(self, asr: Run, checkpoint: Path, tmp_path: Path) -> None:
        good = write_good(tmp_path / "good")
        bad = write_bad(tmp_path / "bad")
        mixed = [path for pair in zip(good, bad, strict=False) for path in pair]
        code, out, err = asr("transcribe", *mixed, "--checkpoint", "CHECKPOINT")
        assert code == 1
        texts = dict(line.split("\t") for line in out.splitlines())
        assert texts == {str(file): transcribe(file, checkpoint) for file in good[: len(bad)]}
        listed = err.split("\n", err.split("asr: ")[0].count("\n"))[-1]
        assert listed.startswith(f"asr: {len(bad)} of {len(mixed)} recordings failed:\n")
        sentences = listed.splitlines()[1:]
        assert len(sentences) == len(bad)
        for path, word in bad.items():
            assert [s for s in sentences if str(path) in s and word in s and s.endswith(".")]

    def test_samples_beyond_all_reason_are_those_of_one_recording(
        self, asr: Run, speech: Path
    ) -> None:
        loud = speech.with_name("loud.wav")
        soundfile.write(loud, np.full(RATE, 3e38, np.float32), RATE, subtype="FLOAT")
        code, out, err = asr("transcribe", loud, speech, "--checkpoint", "CHECKPOINT")
        assert code == 1
        assert out.startswith(f"{speech}\t")
        assert f"  {loud} holds samples of more than 1,000,000 where 1 is full scale" in err

    def test_manifest_faults_stop_the_work(self, asr: Run, speech: Path) -> None:
        good = {"audio_filepath": "speech.wav", "duration": 1.5, "text": "words"}
        for fault, word in (
            ({"duration": None}, '"duration"'),
            ({"text": " "}, '"text" is empty'),
            ({"audio_filepath": ""}, "name a recording"),
        ):
            manifest = speech.with_name("faulty.jsonl")
            manifest.write_text(json.dumps(good | {"id": "a"}) + "\n" + json.dumps(good | fault))
            code, out, err = asr("evaluate", manifest, "--checkpoint", "CHECKPOINT")
            assert (code, out) == (2, "")
            assert word in one_sentence(err)
            assert "line 2" in err
        manifest.write_text(json.dumps(good) + "\n" + json.dumps(good))
        _, _, err = asr("evaluate", manifest, "--checkpoint", "CHECKPOINT")
        assert "already that of line 1" in one_sentence(err)

    @pytest.mark.parametrize("command", ["transcribe", "align", "evaluate", "info"])
    def test_checkpoint_faults(
        self, asr: Run, checkpoint: Path, speech: Path, command: str
    ) -> None:
        folder = speech.parent
        owned = folder / "owned"

        class Malice:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(owned),)

        (folder / "truncated.pt").write_bytes(checkpoint.read_bytes()[:5000])
        (folder / "malicious.pt").write_bytes(pickle.dumps(Malice()))
        torch.save({"state_dict": {}}, folder / "foreign.pt")
        payload = torch.load(checkpoint, weights_only=True)
        payload["vocabulary"] = payload["vocabulary"][:-1]
        torch.save(payload, folder / "other-vocabulary.pt")
        write_manifest(folder / "m.jsonl", [Utterance("a", str(speech), 1.5, "words")])
        names = ["missing.pt", "truncated.pt", "malicious.pt", "foreign.pt"]
        if command != "info":
            names.append("other-vocabulary.pt")
        for name in names:
            path = folder / name
            words = {
                "transcribe": [speech, "--checkpoint", path],
                "align": [speech, "words", "--checkpoint", path],
                "evaluate": [folder / "m.jsonl", "--checkpoint", path],
                "info": [path],
            }
            code, out, err = asr(command, *words[command])
            assert (code, out) == (2, "")
            assert str(path) in one_sentence(err)
        assert not owned.exists()


class TestEvaluate:
    @staticmethod
    def write_manifests(folder: Path, seconds: float) -> Path:
        """all.jsonl, with two utterances that cannot be read, and good.jsonl, without these."""
        utterances = []
        for index in range(6):
            path = folder / f"u{index}.wav"
            soundfile.write(path, make_noise(seconds + index / 10), RATE)
            utterances.append(
                Utterance(f"u{index}", str(path), seconds + index / 10, "Some words, said.")
            )
        utterances.insert(2, Utterance("gone", str(folder / "gone.wav"), 3.0, "lost words"))
        wrong = Utterance("wrong", str(folder / "u0.wav"), seconds * 0.8, "more lost words")
        utterances.append(wrong)
        write_manifest(folder / "all.jsonl", utterances)
        write_manifest(folder / "good.jsonl", [u for u in utterances if u.id[0] == "u"])
        return folder / "all.jsonl"

    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Path:
        return self.write_manifests(tmp_path, 1.0)

    def test_the_operating_point_is_that_of_transcribe(
        self, asr: Run, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output, point = manifest.parent / "fast", ("--latency", "200", "--pause", "0.1")
        words = ("evaluate", manifest.with_name("good.jsonl"), "--checkpoint", "CHECKPOINT")
        texts = {}
        for options in (point, ()):
            assert asr(*words, *options, "--output", output)[0] == 0
            lines = (output / "hypotheses.jsonl").read_text().splitlines()
            texts[options] = [json.loads(line)["pred_text"] for line in lines]
        code, out, _ = asr(
            "transcribe", manifest.with_name("u5.wav"), "--checkpoint", "CHECKPOINT", *point
        )
        assert (code, out.strip()) == (0, texts[point][5])
        assert texts[point] != texts[()]

    def test_no_process_is_without_work(
        self, asr: Run, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = []
        honest = asr_distributed.launch

        def launch(function: Any, task: Any, processes: int) -> Any:
            started.append(processes)
            return honest(function, task, processes)

        monkeypatch.setattr(asr_distributed, "launch", launch)
        words = ["evaluate", manifest.with_name("good.jsonl"), "--checkpoint", "CHECKPOINT"]
        code, _, err = asr(*words, "--processes", "100")
        assert (code, started) == (0, [1])  # one batch
        assert "6/6 utterances" in err

    def test_good_recordings(self, asr: Run, checkpoint: Path, manifest: Path) -> None:
        output = manifest.parent / "results"
        words = ["evaluate", manifest.with_name("good.jsonl"), "--checkpoint", "CHECKPOINT"]
        code, out, _ = asr(*words, "--profile", "english", "--output", output)
        assert code == 0
        expected = {
            f"u{i}": transcribe(manifest.with_name(f"u{i}.wav"), checkpoint) for i in range(6)
        }
        report = score(dict.fromkeys(expected, "some words said"), expected, "english")
        assert out.splitlines()[0] == report.summary()
        assert "The worst utterances" in out
        lines = (output / "hypotheses.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert {record["id"]: record["pred_text"] for record in records} == expected
        assert list(expected) == [record["id"] for record in records]
        written = json.loads((output / "report.json").read_text())
        assert written["wer"] == report.wer
        assert written["unread"] == {}

    def test_unreadable_ones_are_not_hidden(self, asr: Run, manifest: Path) -> None:
        output = manifest.parent / "results"
        code, out, err = asr("evaluate", manifest, "--checkpoint", "CHECKPOINT", "--output", output)
        assert code == 1
        assert "2 of 8 recordings could not be transcribed" in out
        assert "as deleted" in out
        report = json.loads((output / "report.json").read_text())
        assert report["words"] == 6 * 3 + 2 + 3
        by_id = {utterance["id"]: utterance for utterance in report["utterances"]}
        assert by_id["gone"]["deletions"] == 2
        assert by_id["wrong"]["deletions"] == 3
        assert list(report["unread"]) == ["gone", "wrong"]
        assert "does not exist" in report["unread"]["gone"]
        assert "0.80 s are expected" in report["unread"]["wrong"]
        lines = err[err.index("asr: ") :].splitlines()
        assert lines[0] == "asr: 2 of 8 recordings failed:"
        assert [line.split(":")[0].strip() for line in lines[1:]] == ["gone", "wrong"]

    def test_two_processes_give_what_one_gives(self, asr: Run, tmp_path: Path) -> None:
        """To the last byte, with more than one batch and with recordings that fail."""
        manifest = self.write_manifests(tmp_path, BATCH_SECONDS / 5)
        outputs = []
        for processes in (1, 2):
            output = manifest.parent / f"results-{processes}"
            options = ["--processes", processes, "--threads", 1, "--output", output]
            code, _, err = asr("evaluate", manifest, "--checkpoint", "CHECKPOINT", *options)
            assert code == 1, err
            outputs.append([(output / n).read_bytes() for n in ("hypotheses.jsonl", "report.json")])
        assert outputs[0] == outputs[1]

    def test_its_hypotheses_can_be_scored(self, asr: Run, manifest: Path) -> None:
        output = manifest.parent / "results"
        good = manifest.with_name("good.jsonl")
        _, evaluated, _ = asr("evaluate", good, "--checkpoint", "CHECKPOINT", "-o", output)
        code, scored, _ = asr("score", good, output / "hypotheses.jsonl")
        assert (code, scored) == (0, evaluated)


class TestScore:
    REFERENCE: ClassVar = {"a": "the cat sat", "b": "on the mat", "c": ""}
    HYPOTHESIS: ClassVar = {"a": "the cat sat down", "b": "on mat", "c": ""}

    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        for name, texts in (("ref", self.REFERENCE), ("hyp", self.HYPOTHESIS)):
            lines = [json.dumps({"id": id, "text": text}) for id, text in texts.items()]
            (tmp_path / f"{name}.jsonl").write_text("\n" + "\n".join(lines) + "\n\n")
            lines = [f"{id}\t {text}" if text else id for id, text in texts.items()]
            (tmp_path / f"{name}.txt").write_text("\ufeff" + "\r\n".join(reversed(lines)), "utf-8")
        lines = [
            json.dumps({"audio_filepath": f"x/{id}.wav", "text": "not this", "pred_text": text})
            for id, text in self.HYPOTHESIS.items()
        ]
        (tmp_path / "nemo.jsonl").write_text("\n".join(lines))
        return tmp_path

    @pytest.mark.parametrize("reference", ["ref.jsonl", "ref.txt"])
    @pytest.mark.parametrize("hypothesis", ["hyp.jsonl", "hyp.txt", "nemo.jsonl"])
    def test_every_format_against_every_other(
        self, asr: Run, files: Path, reference: str, hypothesis: str
    ) -> None:
        code, out, err = asr("score", files / reference, files / hypothesis)
        assert (code, err) == (0, "")
        assert out.startswith("WER 33.33 % (S 0, I 1, D 1 of 6 words)")
        assert out.splitlines()[1] == ("95 % interval of the WER, over utterances: 0.00 to 33.33 %")
        table = [line.split() for line in out.splitlines()[3:7]]
        assert table == [
            ["substitutions", "0", "0.00", "%"],
            ["insertions", "1", "16.67", "%"],
            ["deletions", "1", "16.67", "%"],
            ["word", "errors", "2", "33.33", "%"],
        ]
        assert "b: S 0, I 0, D 1 of 3 words" in out

    def test_json_and_profile(self, asr: Run, files: Path) -> None:
        (files / "cased.txt").write_text("a The cat sat down!\nb On mat.\nc\n")
        words = ["score", files / "ref.txt", files / "cased.txt", "--json", "--profile"]
        _, out, _ = asr(*words, "english")
        assert json.loads(out)["errors"] == 2
        _, out, _ = asr(*words, "plain")
        assert json.loads(out)["errors"] == 3

    def test_perfect(self, asr: Run, files: Path) -> None:
        _, out, _ = asr("score", files / "ref.txt", files / "ref.jsonl")
        assert out.startswith("WER 0.00 %")
        assert "worst" not in out

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (b"a the cat sat\nb on the mat\n", "only in the references ('c')"),
            (b"a x\na y\n", "'a' occurs twice"),
            (b'{"id": "a", "text": "x"}\n{"id": "b", "tex": "y"}', 'line 2 has no string "text"'),
            (b'{"id": "a", "text": "x"}\n{"id": ', "line 2 is not JSON"),
            (b'{"id": "a", "text": "x"}\n[1, 2]', "line 2 is not a JSON object"),
            (b'{"text": "x"}', "line 1 has neither"),
            (b"RIFF\xff\xfe", "is not UTF-8 text"),
            (b"", "only in the references"),
            (None, "cannot be read (No such file or directory)"),
        ],
    )
    def test_bad_files(self, asr: Run, files: Path, content: bytes | None, named: str) -> None:
        if content is not None:
            (files / "bad").write_bytes(content)
        code, out, err = asr("score", files / "ref.txt", files / "bad")
        assert (code, out) == (2, "")
        assert named in one_sentence(err)


class TestInfo:
    PNG = b"\x89PNG\r\n\x1a\n"

    def facts(self, out: str) -> dict[str, str]:
        pairs = (line.split(maxsplit=1) for line in out.splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def test_checkpoint(self, asr: Run, checkpoint: Path) -> None:
        code, out, err = asr("info", "CHECKPOINT")
        assert (code, err) == (0, "")
        facts = self.facts(out)
        model = Recognizer.load(checkpoint).model
        assert facts["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
        assert facts["vocabulary"] == "abcdefghijklmnopqrstuvwxyz'"
        assert (facts["mels"], facts["hidden"], facts["cell"]) == ("40", "24", "lstm")
        assert (facts["epoch"], facts["step"], facts["dev_wer"]) == ("4", "1,200", "0.123457")
        assert (facts["layers"], facts["resumable"]) == ("1", "no")
        code, _, err = asr("info", "CHECKPOINT", "--picture", "x.png")
        assert code == 2
        assert "no picture" in one_sentence(err)

    def test_recording(self, asr: Run, tmp_path: Path) -> None:
        wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100)
        path = tmp_path / "tone.flac"
        soundfile.write(path, np.stack([wave, wave], axis=1), 44_100, subtype="PCM_24")
        picture = tmp_path / "tone.png"
        code, out, err = asr("info", path, "--picture", picture)
        assert (code, err) == (0, "")
        assert out.splitlines()[:2] == ["format       FLAC, PCM_24", "sample rate  44,100 Hz"]
        facts = self.facts(out)
        assert (facts["channels"], facts["seconds"]) == ("2", "0.5")
        assert facts["peak"] == "-6.0 dBFS"
        assert facts["level"] == "-9.0 dBFS (RMS)"
        assert picture.read_bytes().startswith(self.PNG)

    @pytest.mark.parametrize("seconds", [0.0001, 0.01, 2.0])
    def test_silence_and_short_ones_have_a_picture(
        self, asr: Run, tmp_path: Path, seconds: float
    ) -> None:
        path = tmp_path / "silence.wav"
        soundfile.write(path, np.zeros(max(1, round(seconds * RATE))), RATE)
        code, out, err = asr("info", path, "--picture", tmp_path / "silence.png")
        assert (code, err) == (0, "")
        assert self.facts(out)["peak"] == "silence"
        assert (tmp_path / "silence.png").read_bytes().startswith(self.PNG)

    def test_a_recording_without_an_ending(self, asr: Run, speech: Path) -> None:
        path = speech.with_name("speech")
        shutil.copy(speech, path)
        code, out, _ = asr("info", path)
        assert code == 0
        assert self.facts(out)["seconds"] == "1.5"

    def test_manifest(self, asr: Run, tmp_path: Path) -> None:
        utterances = [
            Utterance("a", "a.wav", 1.0, "abba", "x"),
            Utterance("b", "b.wav", 2.0, "a cab", "y"),
            Utterance("c", "c.wav", 9.0, "bad", "y"),
        ]
        write_manifest(tmp_path / "m.json", utterances)
        picture = tmp_path / "m.png"
        code, out, err = asr("info", tmp_path / "m.json", "--picture", picture)
        assert (code, err) == (0, "")
        facts = self.facts(out)
        assert (facts["utterances"], facts["speakers"], facts["words"]) == ("3", "2", "4")
        assert facts["hours"] == "0.003"
        assert (facts["0"], facts["50"], facts["100"]) == ("%    1", "%   2", "%  9")
        assert (facts["'a'"], facts["'b'"], facts["'d'"]) == ("5", "4", "1")
        assert "' '  1" in out
        assert picture.read_bytes().startswith(self.PNG)

    def test_what_cannot_be_described(self, asr: Run, tmp_path: Path, speech: Path) -> None:
        (tmp_path / "poem").write_text("A poem is nothing of the three.")
        (tmp_path / "broken.jsonl").write_text("{")
        (tmp_path / "broken.wav").write_text("text")
        (tmp_path / "old.pt").write_bytes(struct.pack("<Q", 8) * 9)
        for words, named in (
            ((tmp_path / "none",), "cannot be read (No such file"),
            ((tmp_path,), "is a folder"),
            ((tmp_path / "poem",), "neither a checkpoint"),
            ((tmp_path / "broken.jsonl",), "line 1 is not JSON"),
            ((tmp_path / "broken.wav",), "not audio"),
            ((tmp_path / "old.pt",), "old.pt: "),
            ((speech, "--picture", tmp_path / "x.jpg"), "end in .png"),
            ((speech, "--picture", speech / "x.png"), "x.png could not be written"),
        ):
            code, _, err = asr("info", *words)
            assert code == 2
            assert named in one_sentence(err)
