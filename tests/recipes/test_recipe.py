"""Configuration: YAML and overrides become typed values; what is wrong is refused by name."""

import runpy
import sys
import tomllib
from dataclasses import asdict, replace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from project import ROOT

from asr import checkpoint
from asr.encoder import TRAINING_ONLY, EncoderConfig
from asr.experiment import DataConfig, Experiment
from asr.recipe import find_conf, translate_flags
from asr.release import RELEASED
from asr.runtime.distributed import RuntimeConfig

CONF = ROOT / "conf"
RECIPES = sorted(path.parent.name for path in ROOT.glob("recipes/*/train.py"))


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


def compose_experiment(name: str, *overrides: str) -> Experiment:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        experiment = OmegaConf.to_object(compose(name, list(overrides)))
    assert isinstance(experiment, Experiment)
    return experiment


def test_every_recipe_composes_into_an_experiment() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {*RECIPES, "recipe"}
    for name in RECIPES:
        experiment = compose_experiment(name)
        assert experiment.folder == f"runs/{name}"
        assert experiment.data.train == f"data/{name}/train.jsonl"


def test_recipes_differ_only_in_what_their_files_say() -> None:
    librispeech, folder = (asdict(compose_experiment(name)) for name in ("librispeech", "folder"))
    assert {key for key in folder if folder[key] != librispeech[key]} == {"folder", "data"}
    digits = compose_experiment("digits")
    assert (digits.runtime.device, digits.runtime.processes) == ("cpu", 2)
    assert (digits.training.epochs, digits.training.batch_seconds) == (4, 28.0)
    assert (digits.encoder.hidden, digits.encoder.stack, digits.augment.tempo) == (128, 3, 0.15)
    english = compose_experiment("english")
    assert english.training == replace(
        compose_experiment("folder").training,
        epochs=24,
        batch_seconds=240.0,
        warmup_steps=400,
        weight_decay=0.02,
        average_decay=0.999,
    )


@pytest.mark.parametrize("group", ["encoder", "augment", "decoder", "runtime", "training"])
def test_every_choice_of_a_group_composes(group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        values = asdict(compose_experiment("librispeech", f"{group}={path.stem}"))[group]
        own = yaml.safe_load(path.read_text())
        own.pop("defaults", None)
        assert {key: values[key] for key in own} == own


@pytest.mark.parametrize("name", RECIPES)
def test_a_group_chosen_on_the_command_line_acts_in_every_recipe(name: str) -> None:
    chosen = compose_experiment(name, "augment=none", "encoder=forward", "runtime=auto")
    none = yaml.safe_load((CONF / "augment" / "none.yaml").read_text())
    assert {key: getattr(chosen.augment, key) for key in none} == none
    assert chosen.encoder == EncoderConfig("forward", hidden=512)
    assert chosen.runtime == RuntimeConfig()


@pytest.mark.parametrize("name", RECIPES)
def test_start_released_is_the_model_that_comes_with_asr(name: str) -> None:
    experiment = compose_experiment(name, "+start=released")
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
        ("encoder.stack=100000000000", "encoder.stack is 100000000000; it must be at most 1000"),
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


def test_config_yaml_is_what_omegaconf_writes(tmp_path) -> None:
    for folder in ("runs/a b", "1e3", "none", "on", "y", "12", "", "a: b", "ü", "2024-01-01"):
        experiment = Experiment(folder=folder, data=DataConfig("train.jsonl", "dev.jsonl"))
        assert experiment.to_yaml() == OmegaConf.to_yaml(OmegaConf.structured(experiment))
    experiment.folder = tmp_path
    assert yaml.safe_load(experiment.to_yaml())["folder"] == str(tmp_path)


def test_the_yaml_is_found_in_the_clone_and_travels_in_the_wheel() -> None:
    assert find_conf().resolve() == CONF
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"asr.conf": "conf"}
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("asr/**/__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(setuptools["packages"]) == packages | {"asr.conf"}


def test_an_installed_package_reads_the_yaml_inside_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "asr" / "conf").mkdir(parents=True)
    monkeypatch.setattr("asr.recipe.__file__", str(tmp_path / "asr" / "recipe.py"))
    assert find_conf() == tmp_path / "asr" / "conf"
