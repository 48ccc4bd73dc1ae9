"""Configuration: YAML and overrides become typed values; what is wrong is refused by name."""

import runpy
import sys
from dataclasses import asdict

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asr import checkpoint
from asr.encoder import TRAINING_ONLY
from asr.recipe import Experiment, translate_flags
from asr.release import RELEASED

CONF = ROOT / "conf"
RECIPES = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.fixture
def run_recipe(monkeypatch, capsys):
    """Runs recipes/librispeech/train.py in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        path = ROOT / "recipes" / "librispeech" / "train.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        code = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


def test_every_recipe_composes_into_an_experiment() -> None:
    assert "librispeech" in RECIPES
    for name in RECIPES:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            experiment = OmegaConf.to_object(compose(name))
        assert isinstance(experiment, Experiment)
        assert (ROOT / "recipes" / name / "train.py").exists()


@pytest.mark.parametrize("group", ["encoder", "augment"])
def test_every_choice_of_a_group_composes(group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            OmegaConf.to_object(compose("librispeech", [f"{group}={path.stem}"]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_group_chosen_on_the_command_line_acts_in_every_recipe(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = OmegaConf.to_object(compose(name, ["augment=none", "encoder=forward"]))
    none = yaml.safe_load((CONF / "augment" / "none.yaml").read_text())
    assert {key: getattr(chosen.augment, key) for key in none} == none
    forward = yaml.safe_load((CONF / "encoder" / "forward.yaml").read_text())
    assert asdict(chosen.encoder) == forward


@pytest.mark.parametrize("name", RECIPES)
def test_start_released_is_the_model_that_comes_with_asr(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        experiment = OmegaConf.to_object(compose(name, ["+start=released"]))
    assert isinstance(experiment, Experiment)
    payload = checkpoint.Checkpoint.read(RELEASED).payload
    assert asdict(experiment.features) == payload["features"]
    ours = asdict(experiment.encoder)
    learning = [key.removeprefix("encoder.") for key in TRAINING_ONLY]
    assert {key: ours[key] for key in ours if key not in learning} == {
        key: payload["encoder"][key] for key in ours if key not in learning
    }
    assert experiment.training.start_from == "released"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.epohcs=3", "epohcs"),
        ("trainning.epochs=3", "trainning"),
        ("training.epochs=many", "many"),
        ("training.epochs=0", "training.epochs"),
        ("encoder=sideways", "sideways"),
        ("encoder.cell=gru", "encoder.cell"),
        ("training.precision=fp8", "training.precision"),
        ("data.vocabulary=emoji", "data.vocabulary"),
        ("runtime.device=tpu", "runtime.device"),
        ("--device=tpu", "runtime.device"),
        ("augment.noise_folder=/nowhere", "/nowhere"),
        ("data.train=/nowhere/train.jsonl", "/nowhere/train.jsonl"),
        ("training.epochs=", "training.epochs"),
        ("training.weight_decay=nan", "training.weight_decay"),
        ("features.window_ms=inf", "features.hop_ms"),
        ("features.floor=nan", "features.floor"),
        ("encoder.stack=100000000000", "lower encoder.hidden, encoder.layers or encoder.stack"),
        ("folder=/proc/nowhere", "/proc/nowhere"),
        ("folder=/dev/null", "/dev/null"),
    ],
)
def test_a_bad_override_is_refused_in_one_line_by_name(
    run_recipe, override: str, named: str, tmp_path
) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}\n')
    code, out, err = run_recipe(
        f"data.train={manifest}", f"data.dev={manifest}", f"folder={tmp_path / 'run'}", override
    )
    assert code == 2
    assert err.startswith("train.py: ")
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_flags_are_overrides_of_the_runtime() -> None:
    assert translate_flags(["--device", "cpu", "--threads=2", "training.seed=3", "-m"]) == [
        "runtime.device=cpu",
        "runtime.threads=2",
        "training.seed=3",
        "-m",
    ]


def test_help_and_printed_configuration_work(run_recipe) -> None:
    assert "folder: runs/librispeech" in run_recipe("--cfg", "job")[1]
    assert run_recipe("--help")[0] == 0
