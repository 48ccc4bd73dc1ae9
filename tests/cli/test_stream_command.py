"""`asr stream`: its texts, what it shows meanwhile, and what it refuses."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import soundfile
from commands import RunAsr
from signals import ARPA, SAMPLE, check_stable, make_model, make_signal, make_talk, to_wav

from asr.checkpoint import save_model
from asr.cli import stream as stream_command
from asr.cli.main import main
from asr.recognizer import Recognizer
from asr.stream import Partial
from asr.text import Vocabulary

LIVE = ("--latency", "55", "--pause", "0")
PAUSING = ("--latency", "200", "--pause", "0.3")
GUIDED = ("--lm", "tiny.arpa", "--hotword", "zq")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, kind in (
        ("model.pt", "forward"),
        ("both.pt", "bidirectional"),
        ("latency.pt", "latency_controlled"),
    ):
        save_model(folder / name, make_model(kind), Vocabulary.english(), {"epoch": 1})
    (folder / "tiny.arpa").write_text(ARPA)
    for rate in (16_000, 44_100):
        soundfile.write(folder / f"{rate}.wav", make_signal(2.0, rate), rate, subtype="PCM_16")
    soundfile.write(folder / "talk.wav", make_talk(7.0, 16_000), 16_000, subtype="PCM_16")
    return folder


@pytest.fixture
def asr(run_asr: RunAsr, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> RunAsr:
    """`run_asr` with a checkpoint, in its folder, and `content` on standard input."""
    monkeypatch.chdir(checkpoints)

    def run(*words: str, content: bytes = b"") -> tuple[int, str, str]:
        checkpoint = () if "--checkpoint" in words else ("--checkpoint", "model.pt")
        return run_asr(*words, *checkpoint, stdin=content)

    return run


def pcm(name: str) -> bytes:
    samples: np.ndarray = soundfile.read(name, dtype="int16")[0]
    return samples.astype("<i2").tobytes()


def documents(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *partials, final = map(json.loads, out.splitlines())
    assert final.pop("final") is True
    assert [set(partial) for partial in partials] == [{"seconds", "stable", "tail"}] * len(partials)
    return partials, final


def check_words(words: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same words and times; confidences are rounded from what differs in its last bits."""
    for word, other in zip(words, expected, strict=True):
        assert word == {**other, "confidence": pytest.approx(other["confidence"], abs=2e-4)}


@pytest.mark.parametrize("options", [(), GUIDED])
def test_all_doors_agree(asr: RunAsr, options: tuple[str, ...]) -> None:
    """Laws 2 and 4: a file, its samples, and transcription of the whole."""
    for rate in ("16000", "44100"):
        name = f"{rate}.wav"
        _, whole, _ = asr("transcribe", *options, "--format", "json", name)
        by_file = asr("stream", *options, *LIVE, name)
        by_pipe = asr("stream", *options, *LIVE, "--rate", rate, "-", content=pcm(name))
        if rate == "16000":
            assert asr("stream", *options, *LIVE, "-", content=pcm(name)) == by_pipe
        for code, out, err in (by_file, by_pipe):
            assert (code, err) == (0, "")
            partials, final = documents(out)
            expected = json.loads(whole)
            assert final["text"] == expected["text"] != ""
            check_words(final["words"], expected["words"])
            shown = [Partial(p["stable"], p["tail"], p["seconds"]) for p in partials]
            check_stable(shown, final["text"])
            assert len(shown) > 5
            assert all(a.text != b.text or a.stable != b.stable for a, b in pairwise(shown))


def by_kind(out: str) -> dict[str, list[dict[str, Any]]]:
    """What was shown: partial texts, segments, and the final one."""
    shown: dict[str, list[dict[str, Any]]] = {"stable": [], "segment": [], "final": []}
    for line in map(json.loads, out.splitlines()):
        [kind] = shown.keys() & line.keys()
        shown[kind].append(line)
    return shown


@pytest.mark.parametrize("checkpoint", ["model.pt", "latency.pt"])
@pytest.mark.parametrize("options", [(), GUIDED])
def test_segments_are_shown_where_they_end(
    asr: RunAsr, checkpoint: str, options: tuple[str, ...]
) -> None:
    """Laws 2 and 4: the segments are what `asr transcribe` writes, at the same times."""
    words = (*options, *PAUSING, "--checkpoint", checkpoint)
    _, whole, _ = asr("transcribe", *words, "--format", "json", "talk.wav")
    code, out, err = asr("stream", *words, "talk.wav")
    assert (code, err) == (0, "")
    shown = by_kind(out)
    ended = [*shown["segment"], *shown["final"]]
    assert len(shown["final"]) == 1
    assert len(shown["segment"]) > 1
    assert " ".join(s["text"] for s in ended if s["text"]) == json.loads(whole)["text"]
    check_words([word for s in ended for word in s["words"]], json.loads(whole)["words"])
    partials: list[str] = []
    for line in map(json.loads, out.splitlines()):
        if "stable" in line:
            partials.append(" ".join(filter(None, (line["stable"], line["tail"]))))
            continue
        assert not partials or partials[-1].split()[:1] == line["text"].split()[:1]
        partials = []
    _, piped, _ = asr("stream", *words, "-", content=pcm("talk.wav"))
    for kind in ("segment", "final"):
        for one, other in zip(by_kind(piped)[kind], shown[kind], strict=True):
            check_words(one["words"], other["words"])


def test_a_pause_of_0_never_begins_anew(asr: RunAsr) -> None:
    shown = by_kind(asr("stream", *LIVE, "talk.wav")[1])
    assert shown["segment"] == []
    _, whole, _ = asr("transcribe", "--pause", "0", "talk.wav")
    assert shown["final"][0]["text"] == whole.strip()


@pytest.mark.parametrize("command", ["stream", "transcribe"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--latency", "54.9"),
            "a latency of 54.9 ms is out of range; with this model it is from 55",
        ),
        (("--latency", "0"), "it is from 55 ms to 7 minutes"),
        (("--latency", "-5"), "it is from 55 ms"),
        (("--latency", "1e9"), "it is from 55 ms"),
        (("--latency", "1e300"), "it is from 55 ms"),
        (("--latency", "nan"), "a latency of nan ms is out of range"),
        (("--latency", "inf"), "a latency of inf ms is out of range"),
        (("--latency", "soon"), "invalid float value: 'soon'"),
        (("--latency", "-inf"), "--latency: expected one argument"),
        (("--pause", "-0.1"), "--pause is -0.1; it must be a finite number of seconds, 0 or more"),
        (("--pause", "nan"), "--pause is nan; it must be"),
        (("--pause", "inf"), "--pause is inf; it must be"),
        (("--pause", "long"), "invalid float value: 'long'"),
        (("--latency", "200", "--checkpoint", "both.pt"), "encoder=latency_controlled"),
        (("--pause", "1", "--checkpoint", "both.pt"), "encoder=latency_controlled"),
    ],
)
def test_impossible_operating_points(
    asr: RunAsr, command: str, words: tuple[str, ...], sentence: str
) -> None:
    code, out, err = asr(command, *words, "16000.wav")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1 or err.startswith("usage: asr")


def test_the_least_latency_is_possible(asr: RunAsr) -> None:
    code, out, _ = asr("stream", "--latency", "55", "16000.wav")
    assert code == 0
    assert by_kind(out)["final"][0]["text"]


def test_samples_that_straddle_reads(asr: RunAsr, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dribble(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(min(size or 1, 1001))

    content = pcm("16000.wav")
    pieces = list(stream_command.read_samples(Dribble(content), 16_000))
    assert np.array_equal(np.concatenate(pieces), np.frombuffer(content, "<i2"))
    assert {piece.dtype for piece in pieces} == {np.dtype(np.int16)}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_files_on_standard_input_are_no_samples(asr: RunAsr, format: str) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(16_000), 16_000, format=format)
    code, out, err = asr("stream", "-", content=content.getvalue())
    assert (code, out) == (1, "")
    assert "pass its name instead of -" in err


def test_odd_number_of_bytes(asr: RunAsr) -> None:
    content = pcm("16000.wav")
    _, even, _ = asr("stream", "-", content=content)
    code, out, err = asr("stream", "-", content=content + b"x")
    assert (code, out) == (1, even)
    assert "odd number of bytes" in err
    assert len(err.splitlines()) == 1
    code, out, err = asr("stream", "-", content=b"x")
    assert (code, out) == (1, "")
    assert "odd number of bytes" in err


def test_empty_standard_input_is_empty_text(asr: RunAsr) -> None:
    code, out, err = asr("stream", "-")
    assert (code, err) == (0, "")
    assert documents(out) == ([], {"text": "", "confidence": 1.0, "score": 0.0, "words": []})


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("missing.wav",), 1, "missing.wav does not exist"),
        (("tiny.arpa",), 1, "not audio in a known format"),
        ((), 2, "pass one input: a recording, - for standard input, or --microphone"),
        (("--microphone", "16000.wav"), 2, "pass one input"),
        (("--microphone", "-"), 2, "pass one input"),
        (("--microphone", "--realtime"), 2, "live input already arrives in real time"),
        (("--microphone", "--rate", "8000"), 2, "--rate is for standard input"),
        (("--rate", "5", "-"), 1, "5 samples per second is not supported"),
        (("--rate", "0", "-"), 2, "'0' is not a whole number"),
        (("--rate", "8000", "16000.wav"), 2, "--rate is for standard input"),
        (("--realtime", "-"), 2, "--realtime is for recordings"),
        (("--checkpoint", "both.pt", "16000.wav"), 2, "encoder=latency_controlled"),
        (("--decoder", "greedy", "--beam", "3", "-"), 2, "--beam requires the beam decoder"),
        (("--strict", "-"), 2, "--strict needs known words"),
    ],
)
def test_refused_in_one_sentence(
    asr: RunAsr, words: tuple[str, ...], code: int, sentence: str
) -> None:
    found, out, err = asr("stream", *words, content=b"\0" * 100)
    assert (found, out) == (code, "")
    assert sentence in err
    assert len(err.splitlines()) == 1 or "usage" in err


def test_the_text_before_damage_is_shown(asr: RunAsr, checkpoints: Path) -> None:
    samples = make_signal(6.0, 16_000)
    samples[80_000] = np.nan  # in the second block
    soundfile.write(checkpoints / "damaged.wav", samples, 16_000, subtype="FLOAT")
    code, out, err = asr("stream", "damaged.wav")
    assert code == 1
    assert "not finite" in err
    partials, final = documents(out)
    recognizer = Recognizer.load(checkpoints / "model.pt")
    assert final["text"] == recognizer.transcribe(to_wav(samples[:65_536], 16_000)).text
    assert partials


def test_realtime_waits_for_each_piece(asr: RunAsr, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(stream_command, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stream_command, "sleep", sleep)
    at_once = asr("stream", "16000.wav")
    assert not slept
    assert asr("stream", "--realtime", "16000.wav") == at_once
    assert sum(slept) == pytest.approx(2.0)
    assert max(slept) == pytest.approx(0.1)
    times = [partial["seconds"] for partial in documents(at_once[1])[0]]
    assert times == sorted(set(times))


def test_live_pipe_answers_before_its_end_and_ctrl_c_finishes(checkpoints: Path) -> None:
    command = "import sys; from asr.cli.main import main; sys.exit(main())"
    words = ["stream", *LIVE, "--checkpoint", "model.pt", "--threads", "1", "-"]
    program = subprocess.Popen(
        [sys.executable, "-c", command, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=checkpoints,
    )
    assert program.stdin
    assert program.stdout
    deadline = threading.Timer(60, program.kill)
    deadline.start()
    program.stdin.write(pcm(str(checkpoints / "16000.wav")))
    program.stdin.flush()
    lines = [json.loads(program.stdout.readline()) for _ in range(5)]  # the pipe is still open
    os.kill(program.pid, signal.SIGINT)
    rest, err = program.communicate()
    deadline.cancel()
    partials, final = documents(rest.decode())
    assert program.returncode == 130
    assert err == b"asr: interrupted.\n"
    shown = [Partial(p["stable"], p["tail"], p["seconds"]) for p in [*lines, *partials]]
    check_stable(shown, final["text"])
    assert final["text"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(asr: RunAsr, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `asr stream` writes to a terminal of 20 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "20")

    def run(*words: str) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            assert main(["stream", "--checkpoint", "model.pt", *words]) == 0
        return terminal.getvalue()

    return run


@pytest.mark.parametrize("options", [(), GUIDED])
def test_terminal_shows_one_line_and_then_the_text(
    asr: RunAsr, show: Callable[..., str], options: tuple[str, ...]
) -> None:
    options = (*options, *LIVE)
    partials, final = documents(asr("stream", *options, "16000.wav")[1])
    text = " ".join(filter(None, (partials[-1]["stable"], partials[-1]["tail"])))
    shown = show(*options, "16000.wav")
    assert "{" not in shown
    live, _, last = shown.rstrip("\n").rpartition("\x1b[2K")
    assert last == final["text"]
    assert "\x1b[2m" in live  # what may change is dim
    plain = live.replace("\x1b[2m", "").replace("\x1b[0m", "").replace("\x1b[2K", "")
    lines = [line for line in plain.split("\r") if "\x1b" not in line]
    assert len(lines) > 5
    assert max(map(len, lines)) <= 19
    assert any(line.strip() == text[-19:].strip() for line in lines)  # its end, cut at the front


def test_terminal_keeps_finished_segments(asr: RunAsr, show: Callable[..., str]) -> None:
    """Each as a line of its own, above the line that goes on to change."""
    found = by_kind(asr("stream", *PAUSING, "talk.wav")[1])
    texts = [segment["text"] for segment in [*found["segment"], *found["final"]]]
    assert len(texts) > 2
    shown = show(*PAUSING, "talk.wav")
    lines = [re.sub(r".*(\r|\x1b\[\??\d+[A-Za-z])", "", line) for line in shown.split("\n")]
    assert list(filter(None, lines)) == list(filter(None, texts))


# The microphone


class Microphone:
    """Stands for sounddevice: an input that hands over `recorded`, then waits until Ctrl-C."""

    recorded: ClassVar[list[np.ndarray]] = []
    opened: ClassVar[list[tuple[Any, ...]]] = []
    is_open: ClassVar[bool] = False

    class PortAudioError(Exception):
        pass

    class Waiting(Queue):  # type: ignore[type-arg]
        def get(self, *_: object) -> Any:
            if self.empty():
                signal.raise_signal(signal.SIGINT)
            return super().get()

    class InputStream:
        def __init__(
            self, samplerate: int, blocksize: int, *, channels: int, dtype: str, callback: Any
        ) -> None:
            Microphone.opened.append((samplerate, blocksize, channels, dtype))
            self.callback = callback

        def __enter__(self) -> Self:
            Microphone.is_open = True
            buffer = np.zeros((1_600, 1), np.int16)  # one for all pieces, as PortAudio has it
            for piece in Microphone.recorded:
                buffer[: len(piece), 0] = piece
                self.callback(buffer[: len(piece)], len(piece), None, None)
            buffer[:] = 99
            return self

        def __exit__(self, *_: object) -> None:
            Microphone.is_open = False


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> type[Microphone]:
    samples = (make_talk(4.0, 16_000) / SAMPLE).astype(np.int16)
    monkeypatch.setattr(
        Microphone, "recorded", np.split(samples, range(1_600, len(samples), 1_600))
    )
    monkeypatch.setattr(Microphone, "opened", [])
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone)
    monkeypatch.setattr(stream_command, "Queue", Microphone.Waiting)
    return Microphone


class TestMicrophone:
    def test_ctrl_c_ends_it_with_the_text(self, asr: RunAsr, microphone: type[Microphone]) -> None:
        code, out, err = asr("stream", "--microphone", *PAUSING)
        assert (code, err) == (0, "")
        assert microphone.opened == [(16_000, 1_600, 1, "int16")]
        assert not microphone.is_open
        content = np.concatenate(microphone.recorded).astype("<i2").tobytes()
        _, piped, _ = asr("stream", "-", *PAUSING, content=content)
        found, expected = by_kind(out), by_kind(piped)
        assert found["final"] == expected["final"]
        assert found["segment"] == expected["segment"] != []
        assert found["stable"]

    def test_ctrl_c_before_a_sound(self, asr: RunAsr, microphone: type[Microphone]) -> None:
        microphone.recorded.clear()
        assert asr("stream", "--microphone") == (0, "", "")

    @pytest.mark.parametrize("place", ["__init__", "__enter__"])
    def test_without_a_microphone(
        self,
        asr: RunAsr,
        microphone: type[Microphone],
        monkeypatch: pytest.MonkeyPatch,
        place: str,
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise microphone.PortAudioError("Error querying device -1")

        monkeypatch.setattr(microphone.InputStream, place, fail)
        code, out, err = asr("stream", "--microphone")
        assert (code, out) == (1, "")
        sentence = "asr: no microphone can be read (Error querying device -1); connect one.\n"
        assert err == sentence

    def test_a_microphone_that_is_unplugged(
        self, asr: RunAsr, microphone: type[Microphone], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The text until then is shown."""

        def get(queue: Queue) -> Any:  # type: ignore[type-arg]
            if queue.empty():
                raise microphone.PortAudioError("gone")
            return Queue.get(queue)

        monkeypatch.setattr(microphone.Waiting, "get", get)
        code, out, err = asr("stream", "--microphone", *PAUSING)
        assert code == 1
        assert "(gone)" in err
        assert len(err.splitlines()) == 1
        assert len(by_kind(out)["final"]) == 1

    @pytest.mark.parametrize("error", [ImportError("no module"), OSError("PortAudio not found")])
    def test_without_the_package(
        self, asr: RunAsr, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        class Missing:
            def find_spec(self, name: str, *_: object) -> None:
                if name == "sounddevice":
                    raise error

        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        code, out, err = asr("stream", "--microphone")
        assert (code, out) == (1, "")
        assert f"({error}): pip install 'lstm-asr[microphone]'." in err
        assert len(err.splitlines()) == 1
