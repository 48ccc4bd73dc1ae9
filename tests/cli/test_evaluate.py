"""`asr evaluate`: error rates of a manifest, also when recordings cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from commands import RunAsr, one_sentence, transcribe
from recordings import RATE, make_noise

from asr.data.manifest import Utterance, write_manifest
from asr.recognizer import BATCH_SECONDS
from asr.runtime import distributed as asr_distributed
from asr.scoring import score


class TestEvaluate:
    @staticmethod
    def write_manifests(recordings: Path, seconds: float) -> Path:
        """all.jsonl, with two utterances that cannot be read, and good.jsonl, without these."""
        utterances = []
        for index in range(6):
            path = recordings / f"u{index}.wav"
            soundfile.write(path, make_noise(seconds + index / 10), RATE)
            utterances.append(
                Utterance(f"u{index}", str(path), seconds + index / 10, "Some words, said.")
            )
        utterances.insert(2, Utterance("gone", str(recordings / "gone.wav"), 3.0, "lost words"))
        wrong = Utterance("wrong", str(recordings / "u0.wav"), seconds * 0.8, "more lost words")
        utterances.append(wrong)
        write_manifest(recordings / "all.jsonl", utterances)
        write_manifest(recordings / "good.jsonl", [u for u in utterances if u.id[0] == "u"])
        return recordings / "all.jsonl"

    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Path:
        return self.write_manifests(tmp_path, 1.0)

    def test_the_operating_point_is_that_of_transcribe(
        self, run_asr: RunAsr, checkpoint: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output, point = manifest.parent / "fast", ("--latency", "200", "--pause", "0.1")
        words = ("evaluate", manifest.with_name("good.jsonl"), "--checkpoint", checkpoint)
        texts = {}
        for options in (point, ()):
            assert run_asr(*words, *options, "--output", output)[0] == 0
            lines = (output / "hypotheses.jsonl").read_text().splitlines()
            texts[options] = [json.loads(line)["pred_text"] for line in lines]
        code, out, _ = run_asr(
            "transcribe", manifest.with_name("u5.wav"), "--checkpoint", checkpoint, *point
        )
        assert (code, out.strip()) == (0, texts[point][5])
        assert texts[point] != texts[()]

    def test_no_process_is_without_work(
        self, run_asr: RunAsr, checkpoint: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = []
        honest = asr_distributed.launch

        def launch(function: Any, task: Any, processes: int) -> Any:
            started.append(processes)
            return honest(function, task, processes)

        monkeypatch.setattr(asr_distributed, "launch", launch)
        words = ["evaluate", manifest.with_name("good.jsonl"), "--checkpoint", checkpoint]
        code, _, err = run_asr(*words, "--processes", "100")
        assert (code, started) == (0, [1])  # one batch
        assert "6/6 utterances" in err

    def test_good_recordings(self, run_asr: RunAsr, checkpoint: Path, manifest: Path) -> None:
        output = manifest.parent / "results"
        words = ["evaluate", manifest.with_name("good.jsonl"), "--checkpoint", checkpoint]
        code, out, _ = run_asr(*words, "--profile", "english", "--output", output)
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

    def test_unreadable_ones_are_not_hidden(
        self, run_asr: RunAsr, checkpoint: Path, manifest: Path
    ) -> None:
        output = manifest.parent / "results"
        code, out, err = run_asr(
            "evaluate", manifest, "--checkpoint", checkpoint, "--output", output
        )
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

    @pytest.mark.slow
    def test_two_processes_give_what_one_gives(
        self, run_asr: RunAsr, checkpoint: Path, tmp_path: Path
    ) -> None:
        """To the last byte, with more than one batch and with recordings that fail."""
        manifest = self.write_manifests(tmp_path, BATCH_SECONDS / 5)
        outputs = []
        for processes in (1, 2):
            output = manifest.parent / f"results-{processes}"
            options = ["--processes", processes, "--threads", 1, "--output", output]
            code, _, err = run_asr("evaluate", manifest, "--checkpoint", checkpoint, *options)
            assert code == 1, err
            outputs.append([(output / n).read_bytes() for n in ("hypotheses.jsonl", "report.json")])
        assert outputs[0] == outputs[1]

    def test_its_hypotheses_can_be_scored(
        self, run_asr: RunAsr, checkpoint: Path, manifest: Path
    ) -> None:
        output = manifest.parent / "results"
        good = manifest.with_name("good.jsonl")
        _, evaluated, _ = run_asr("evaluate", good, "--checkpoint", checkpoint, "-o", output)
        code, scored, _ = run_asr("score", good, output / "hypotheses.jsonl")
        assert (code, scored) == (0, evaluated)

    def test_manifest_faults_stop_the_work(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        good = {"audio_filepath": "speech.wav", "duration": 1.5, "text": "words"}
        for fault, word in (
            ({"duration": None}, '"duration"'),
            ({"text": " "}, '"text" is empty'),
            ({"audio_filepath": ""}, "specify a recording"),
        ):
            manifest = speech.with_name("faulty.jsonl")
            manifest.write_text(json.dumps(good | {"id": "a"}) + "\n" + json.dumps(good | fault))
            code, out, err = run_asr("evaluate", manifest, "--checkpoint", checkpoint)
            assert (code, out) == (2, "")
            assert word in one_sentence(err)
            assert "line 2" in err
        manifest.write_text(json.dumps(good) + "\n" + json.dumps(good))
        _, _, err = run_asr("evaluate", manifest, "--checkpoint", checkpoint)
        assert "already used on line 1" in one_sentence(err)
