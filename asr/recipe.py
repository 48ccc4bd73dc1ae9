"""Hydra: YAML and a command line become an `Experiment`, and its training is shown to the user.

`conf/<recipe>.yaml` holds values, `Experiment` holds types. `run` composes the YAML with the command
line, reports values that are misspelled, of the wrong type or out of range, and returns an exit code.
"""

import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr.errors import EXIT_CODE, INTERRUPTED, AsrError, ConfigError, FileError, TrainingError
from asr.experiment import Experiment
from asr.files import advise
from asr.progress import Bar, complain, say
from asr.runtime.distributed import is_rank_zero
from asr.runtime.signals import stopping_on_sigusr2
from asr.runtime.slurm import adopt_slurm
from asr.training.config import TrainingCallbacks

FLAGS = ("device", "threads", "processes", "workers")  # `--device cpu` means runtime.device=cpu
MOST_CHARACTERS = 2_000  # of a message of Hydra's, which quotes the whole value
PROCESS = uuid.uuid4().hex  # identifies this process; a launcher may send jobs to others

ConfigStore.instance().store(name="experiment", node=Experiment)


def find_conf() -> Path:
    """The folder of the recipes' YAML: inside an installed package, or beside it in a clone."""
    package = Path(__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def run(recipe: str, arguments: Sequence[str] | None = None, program: str = "train.py") -> int:
    """Train with the configuration composed from conf/<recipe>.yaml and the command line.

    Args:
        recipe: Name of a YAML file in conf/, without its suffix.
        arguments: Hydra's overrides and options, and our flags; None: those of this process.
        program: The name with which error messages begin.

    Returns:
        The exit code: 0 for success, 130 after an interruption, 2 for an error of the user.
    """
    sys.argv[1:] = arrange(translate_flags(sys.argv[1:] if arguments is None else arguments))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach the lines below
    job = _Job(program)
    errors = job.errors
    try:
        adopt_slurm()
        hydra.main(version_base="1.3", config_path=str(find_conf()), config_name=recipe)(job)()
    except AsrError as error:  # the first one of the jobs in other processes
        errors.append(error)
    except (HydraException, OmegaConfBaseException) as error:
        errors.append(ConfigError(_one_line(error)))
    except (ValueError, OverflowError) as error:  # Hydra cannot parse some values
        if job.has_begun:
            raise
        errors.append(ConfigError(f"a value cannot be read ({_one_line(error)}); correct it"))
    except OSError as error:  # Hydra makes folders
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be used ({error.strerror}); {advise(error)}"
        errors.append(FileError(reason))
    except KeyboardInterrupt:
        if is_rank_zero():
            complain(_describe_interruption())
        return INTERRUPTED
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "submitit":
            raise
        errors.append(TrainingError(f"a job ended without a result ({_one_line(error)})"))
    for failure in errors:
        _complain(program, failure)
    return EXIT_CODE if errors else 0


class _Job:
    """Trains one composed configuration: a single run, or one job of a sweep.

    A launcher may pickle it and call it in another process.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.home = PROCESS
        self.has_begun = False
        self.errors: list[AsrError] = []  # errors of the jobs in this process

    def __call__(self, config: DictConfig) -> None:
        self.has_begun = True
        name = name_job()
        try:
            adopt_slurm()
            with stopping_on_sigusr2() as repeat_signal:
                experiment = build(config)
                if name and is_rank_zero():
                    say(f"== {name} in {experiment.folder}")
                outcome = experiment.train(TrainingDisplay())
        except AsrError as error:
            self._fail(type(error)(f"{name}: {error}") if name else error)
            return
        if outcome.interrupted:
            repeat_signal()
            raise KeyboardInterrupt  # the other jobs of a sweep must not start

    def _fail(self, error: AsrError) -> None:
        """Keep an error until the other jobs of a sweep are done, if this process runs them."""
        if "RANK" in os.environ:  # the other processes are still working on this job
            _complain(self.program, error)
            sys.exit(EXIT_CODE)
        if self.home != PROCESS:
            raise error  # the launcher re-raises it in the parent process
        self.errors.append(error)


class TrainingDisplay(TrainingCallbacks):
    """Shows messages, and a bar for the index of a manifest and for each epoch."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        say(line)

    def index_grows(self, manifest: str, count: int) -> None:
        """Open the bar of the index when it is needed, and advance it."""
        if self._bar is None:
            self._bar = Bar(f"Indexing {manifest}", Path(manifest).stat().st_size, "bytes")
        self._bar.advance(count)

    def index_ends(self) -> None:
        """Close the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    epoch_ends = index_ends

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Open the bar of the epoch."""
        self._bar = Bar(f"Epoch {epoch}/{epochs}", steps, "steps", done)

    def steps_done(self, steps: int, loss: float) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.advance(steps, f"loss {loss:.3f}")


def name_job() -> str:
    """The number and the own values of a sweep's job; "" for a single run."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return ""
    values = hydra_config.job.override_dirname.replace(",", ", ")
    return f"job {hydra_config.job.num + 1} ({values})" if values else "job 1"


def _describe_interruption() -> str:
    """What to do after Ctrl-C, which stops the jobs of this process, but not those in a queue."""
    if HydraConfig.initialized():
        launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
        if launcher != "basic":
            return (
                f"Interrupted; the jobs submitted to {launcher} are still running. Once they have "
                "ended, run the same command again to resume from their last checkpoints."
            )
    return "Interrupted; run the same command again to resume from the last checkpoint."


def build(config: DictConfig) -> Experiment:
    """Convert a composed configuration to a checked `Experiment`. Raises ConfigError."""
    try:
        experiment = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(_one_line(error)) from error
    assert isinstance(experiment, Experiment)
    experiment.folder = HydraConfig.get().runtime.output_dir  # each job of a sweep has its own
    return experiment


def translate_flags(arguments: Sequence[str]) -> list[str]:
    """Turn flags into overrides: `--device cpu` or `--device=cpu` -> runtime.device=cpu."""
    translated = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in FLAGS:
            argument = f"runtime.{name}={value if equals else next(rest, '')}"
        translated.append(argument)
    return translated


def arrange(arguments: list[str]) -> list[str]:
    """Sort arguments as Hydra needs them, `-m` first and then all overrides, and add our own.

    Hydra writes no files, because training writes its own configuration once it is accepted.
    The folders of a sweep are named only by the values that differ among its jobs, while Hydra would
    name them by all overrides. The other values can then be changed as for a single run.
    """
    sweep = [word for word in arguments if word in ("-m", "--multirun")]
    rest = [word for word in arguments if word not in sweep]
    ends = [end for end, word in enumerate(rest, start=1) if _is_override(word)]
    end = max(ends, default=len(rest))
    ours = ["hydra.output_subdir=null", *(_shorten_names(rest) if sweep else [])]
    return [*sweep, *rest[:end], *ours, *rest[end:]]


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _shorten_names(arguments: list[str]) -> list[str]:
    """The override that excludes equal values from the names of a sweep's folders."""
    overrides = [word for word in arguments if _is_override(word)]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:  # Hydra will report it
        return []
    same = [repr(o.key_or_group) for o in parsed if not o.is_sweep_override()]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same)}]"]


def _one_line(error: Any) -> str:
    """An exception's message as one line, with that of its cause if Hydra or OmegaConf raised it."""
    text = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException | HydraException):
        text += f"\n{error.__cause__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in lines if not line.startswith(("object_type", "reference_type"))]
    sentence = "; ".join(dict.fromkeys(line.removesuffix(".") for line in wanted))
    return sentence if len(sentence) <= MOST_CHARACTERS else f"{sentence[:MOST_CHARACTERS]}..."


def _complain(program: str, error: AsrError) -> None:
    message = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    complain(f"{program}: {message.removesuffix('.')}.")
