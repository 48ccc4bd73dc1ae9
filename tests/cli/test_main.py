"""The program `asr`: help, wrong usage, streams that are closed, and exit codes."""

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import RunAsr, one_sentence, transcribe

from asr.cli.main import COMMANDS
from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError
from asr.recognizer import Recognizer
from asr.runtime.distributed import RuntimeConfig


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
        for command in COMMANDS:
            assert f"    {command}" in done.stdout
        assert min(seconds) < 0.3

    def test_version(self, run_asr: RunAsr) -> None:
        code, out, _ = run_asr("--version")
        assert (code, out.split()[0]) == (0, "asr")
        assert out.split()[1][0].isdigit()

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ((), "COMMAND"),
            (("sing",), "sing"),
            (("tune", "a.jsonl", "--trials", "0"), "'0'"),
            (("tune", "a.jsonl", "--trials", "4294967294"), "4294967294 is too large"),
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
            (("lm", "train", "--prune", "0", "a.txt", "-o", "a.lm"), "'a.txt' is not a count"),
            (("lm", "train", "a.txt", "-o", "a.lm", "--prune", "0", "-1"), "'-1' is not a count"),
            (("lm", "train", "a.txt", "-o", "a.lm", "--vocabulary-limit", "0"), "'0'"),
            (("lm", "perplexity", "a.lm"), "TEXT"),
            (("lm", "convert", "a.lm"), "OUT"),
        ],
    )
    def test_wrong_usage(self, run_asr: RunAsr, words: tuple[str, ...], named: str) -> None:
        code, out, err = run_asr(*words)
        assert (code, out) == (2, "")
        assert err.startswith("usage: asr")
        assert named in err

    @pytest.mark.parametrize(
        "command",
        [*COMMANDS, "lm train", "lm info", "lm perplexity", "lm convert"],
    )
    def test_every_command_explains_itself(self, run_asr: RunAsr, command: str) -> None:
        code, out, err = run_asr(*command.split(), "--help")
        assert (code, err) == (0, "")
        assert f"usage: asr {command}" in out

    def test_a_reader_that_leaves(self, tmp_path: Path) -> None:
        (tmp_path / "ref").write_text("a some words\n")
        program = subprocess.Popen(
            [sys.executable, "-m", "asr", "score", "--format", "kaldi"] + 2 * [tmp_path / "ref"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdout is not None
        program.stdout.close()
        _, err = program.communicate(timeout=60)
        assert (program.returncode, err) == (141, b"")

    def test_interrupted(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Recognizer, "load", interrupt)
        code, out, err = run_asr("transcribe", speech, "--checkpoint", checkpoint)
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


class TestRefusals:
    def test_misspelled_options_are_reported_by_their_command(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        code, _, err = run_asr("stream", "--nbest", "3", speech, "--checkpoint", checkpoint)
        assert code == 2
        assert err.startswith("usage: asr stream")
        assert err.endswith("unrecognized arguments: --nbest\n")

    def test_too_many_threads(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        for words in (
            ("transcribe", speech, "--threads", 2**31),
            ("evaluate", speech, "--processes", 9999),
        ):
            code, _, err = run_asr(*words, "--checkpoint", checkpoint)
            assert (code, err.endswith("is too large; use 1024 at most\n")) == (2, True)
        with pytest.raises(ConfigError, match="threads is 0; it must be from 1 to 1,024"):
            Recognizer.load("none.pt", threads=0)
        with pytest.raises(ConfigError, match=r"runtime\.processes is 9999"):
            RuntimeConfig(processes=9999)

    def test_outputs_that_cannot_be_written_are_refused_before_the_work(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        for words in (
            ("evaluate", "none.jsonl", "-o", tmp_path / "file"),
            ("tune", "none.jsonl", "-o", tmp_path / "file" / "x.pt"),
        ):
            code, out, err = run_asr(*words, "--checkpoint", checkpoint)
            assert (code, out) == (2, "")
            assert "cannot be written" in one_sentence(err)

    @pytest.mark.parametrize("command", ["transcribe", "align", "evaluate", "info"])
    def test_checkpoint_faults(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, command: str
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
            code, out, err = run_asr(command, *words[command])
            assert (code, out) == (2, "")
            assert str(path) in one_sentence(err)
        assert not owned.exists()
