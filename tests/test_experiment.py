"""Training from plain Python: no Hydra, silent unless callbacks are given."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from project import ROOT

from asr.data.augment import AugmentConfig
from asr.data.manifest import Utterance, write_manifest
from asr.encoder import EncoderConfig
from asr.errors import ConfigError, DataError, TextError
from asr.experiment import DataConfig, Experiment
from asr.features import FeaturesConfig
from asr.recognizer import Recognizer
from asr.runtime.distributed import RuntimeConfig
from asr.training.config import TrainingCallbacks, TrainingConfig


@pytest.fixture
def data(tones: list[Utterance], tmp_path: Path) -> DataConfig:
    write_manifest(tmp_path / "train.jsonl", tones)
    write_manifest(tmp_path / "dev.jsonl", tones[:3])
    return DataConfig(str(tmp_path / "train.jsonl"), str(tmp_path / "dev.jsonl"), "transcripts")


def make_experiment(folder: Path, data: DataConfig) -> Experiment:
    return Experiment(
        folder=str(folder),
        data=data,
        features=FeaturesConfig(mels=20),
        encoder=EncoderConfig(layers=1, hidden=16, stack=4),
        augment=AugmentConfig(silence_seconds=0.1),
        training=TrainingConfig(epochs=1, batch_seconds=6.0),
        runtime=RuntimeConfig(device="cpu", processes=1, threads=1, workers=0),
    )


class Notes(TrainingCallbacks):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def steps_done(self, steps: int, loss: float) -> None:
        self.steps += steps


def test_it_trains_silently_and_resumes(data: DataConfig, tmp_path: Path, capfd) -> None:
    experiment = make_experiment(tmp_path / "run", data)
    outcome = experiment.train()
    assert capfd.readouterr() == ("", "")
    assert (outcome.epoch, outcome.interrupted) == (1, False)
    assert Recognizer.load(tmp_path / "run" / "best.pt").vocabulary.to_list()[1:] == list(" abcd")
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["training"]["epochs"] == 1
    assert written["data"]["vocabulary"] == "transcripts"
    notes = Notes()
    assert experiment.train(notes) == outcome
    assert notes.lines[0].startswith("Resuming in")
    assert notes.steps == 0


def test_a_character_that_only_the_dev_set_has_is_said_and_counts_as_an_error(
    data: DataConfig, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in Path(data.dev).read_text().splitlines()]
    rows[0]["text"] += " ж"
    data.dev = str(tmp_path / "dev.jsonl")
    for row in rows:
        row["audio_filepath"] = str(Path(data.train).parent / row["audio_filepath"])
    Path(data.dev).write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    assert make_experiment(tmp_path / "run", data).train(notes).epoch == 1
    assert any("only the dev set has" in line and "ж (1)" in line for line in notes.lines)
    assert Recognizer.load(tmp_path / "run" / "best.pt").vocabulary.to_list()[1:] == list(" abcdж")


def test_an_alphabet_can_be_given(data: DataConfig, tmp_path: Path) -> None:
    data.vocabulary = str(tmp_path / "alphabet.txt")
    Path(data.vocabulary).write_text("DCBA\nжée\u0301\n")
    make_experiment(tmp_path / "run", data).train()
    assert Recognizer.load(tmp_path / "run" / "best.pt").vocabulary.to_list()[1:] == list(" dcbaжé")
    Path(data.vocabulary).write_text(" \n")
    with pytest.raises(TextError, match=r"alphabet\.txt has no character"):
        make_experiment(tmp_path / "other", data).train()


def test_fine_tuning_extends_the_vocabulary_of_the_checkpoint(
    data: DataConfig, tmp_path: Path
) -> None:
    make_experiment(tmp_path / "before", data).train()
    start = tmp_path / "before" / "best.pt"
    other = tmp_path / "other.jsonl"
    rows = [json.loads(line) for line in Path(data.train).read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(Path(data.train).parent / row["audio_filepath"])
        row["text"] = row["text"].replace("a", "ж")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data.train = str(other)
    experiment = make_experiment(tmp_path / "run", data)
    experiment.training.start_from = str(start)
    outcome = experiment.train()
    assert Recognizer.load(tmp_path / "run" / "best.pt").vocabulary.to_list()[1:] == list(" abcdж")
    start.unlink()
    assert experiment.train() == outcome  # resumed


def test_callbacks_see_messages_and_steps(data: DataConfig, tmp_path: Path) -> None:
    notes = Notes()
    outcome = make_experiment(tmp_path / "run", data).train(notes)
    assert notes.steps == outcome.step
    assert notes.lines[-1].startswith("Trained.")


def test_it_needs_neither_hydra_nor_a_terminal(data: DataConfig, tmp_path: Path) -> None:
    code = f"""
        import sys
        for name in ("hydra", "omegaconf", "rich"):
            sys.modules[name] = None
        from asr.encoder import EncoderConfig
        from asr.experiment import DataConfig, Experiment
        from asr.training.config import TrainingConfig
        Experiment(
            folder={str(tmp_path / "run")!r},
            data=DataConfig({data.train!r}, {data.dev!r}),
            encoder=EncoderConfig(layers=1, hidden=8),
            training=TrainingConfig(epochs=1),
        ).train()
        assert "asr.progress" not in sys.modules
        assert "torch._dynamo" not in sys.modules, "the compiler takes two seconds to import"
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.pt").exists()


def test_wrong_data_are_refused(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.vocabulary is 'emoji'"):
        DataConfig("train.jsonl", "dev.jsonl", "emoji")
    data.dev = str(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"none\.jsonl"):
        make_experiment(tmp_path / "run", data).train()
