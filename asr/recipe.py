"""The sum of the components' configurations, and Hydra's way into it.

`conf/<recipe>.yaml` holds values, `Experiment` holds types. A recipe's script is a function of an
`Experiment` under `@recipe`, which composes YAML and command line, refuses in one sentence what is
misspelled, ill-typed or impossible, and ends the program with a telling exit code.
"""

import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr.data.augment import AugmentConfig
from asr.data.index import Index, open_index
from asr.data.manifest import read_manifest
from asr.decoder.config import DecoderConfig
from asr.encoder import EncoderConfig
from asr.errors import EXIT_CODE, AsrError, ConfigError, FileError, TrainingError
from asr.features import FeaturesConfig
from asr.files import advise
from asr.progress import Bar, complain, say
from asr.runtime.distributed import RuntimeConfig, cannot_replace_machines, is_first, launch
from asr.runtime.signals import asking_to_stop
from asr.runtime.slurm import adopt_slurm
from asr.text import Vocabulary
from asr.training.config import Outcome, TrainingCallbacks, TrainingConfig
from asr.training.run import Task, train

FLAGS = ("device", "threads", "processes", "workers")  # `--device cpu` means runtime.device=cpu
INTERRUPTED = 130  # the shell's exit code for Ctrl-C
PROCESS = uuid.uuid4().hex  # this one; a launcher may send a sweep's jobs to others


@dataclass
class DataConfig:
    """What to train on and what to watch."""

    train: str = MISSING  # JSONL manifests
    dev: str = MISSING
    vocabulary: str = "english"  # or "transcripts": the characters of the training set

    def __post_init__(self) -> None:
        if self.vocabulary not in ("english", "transcripts"):
            raise ConfigError(
                f"data.vocabulary is {self.vocabulary!r}; it must be english or transcripts."
            )


@dataclass
class Experiment:
    """All that a training run can be told."""

    folder: str = "runs/experiment"
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def train(self) -> Outcome:
        """Train as configured, in as many processes as configured; see `asr.training.run.train`."""
        training_set = open_training_set(self.data.train)
        vocabulary = Vocabulary.english()
        if self.data.vocabulary == "transcripts":
            vocabulary = Vocabulary.from_transcripts([training_set.characters])
        task = Task(
            Path(self.folder),
            training_set,
            read_manifest(self.data.dev),
            vocabulary,
            self.features,
            self.encoder,
            self.augment,
            self.training,
            self.decoder,
            self.runtime,
            TrainingDisplay(),
            OmegaConf.to_yaml(OmegaConf.structured(self)),
        )
        if is_first() and cannot_replace_machines():
            say(
                "A machine that fails and comes back will not find the others; set "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is called."
            )
        outcome: Outcome = launch(train, task, self.runtime.resolve().processes)
        return outcome


def open_training_set(manifest: str) -> Index:
    """The index of a manifest; a bar shows how a large one is made. Raises DataError."""
    bar: Bar | None = None

    def advance(count: int) -> None:
        nonlocal bar
        if bar is None:
            bar = Bar(f"Indexing {manifest}", Path(manifest).stat().st_size, "bytes")
        bar.advance(count)

    try:
        return open_index(manifest, advance if is_first() else lambda _: None)
    finally:
        if bar is not None:
            bar.close()


class TrainingDisplay(TrainingCallbacks):
    """Shows a training run: a bar for each epoch with the loss, and a line when it ends."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        say(line)

    def epoch_begins(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Open the epoch's bar."""
        self._bar = Bar(f"Epoch {epoch}/{epochs}", steps, "steps", done)

    def steps_done(self, steps: int, loss: float) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.advance(steps, f"loss {loss:.3f}")

    def epoch_ends(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


ConfigStore.instance().store(name="experiment", node=Experiment)


def recipe(
    script: str, name: str
) -> Callable[[Callable[[Experiment], Outcome]], Callable[[], None]]:
    """Decorate the body of a training script: `@recipe(__file__, "digits")` reads conf/digits.yaml.

    The decorated function takes no argument: it reads the command line, calls the body with an
    `Experiment`, and ends the program: 0 when all is done, 130 when interrupted, 2 for an error of
    the user's, told in one sentence.
    """
    conf = Path(script).resolve().parents[2] / "conf"

    def decorate(body: Callable[[Experiment], Outcome]) -> Callable[[], None]:
        home = PROCESS
        errors: list[AsrError] = []  # of each job of a sweep

        def run(config: DictConfig) -> None:
            job = name_job()
            try:
                adopt_slurm()
                with asking_to_stop() as answer:
                    experiment = build(config)
                    if job and is_first():
                        say(f"== {job} in {experiment.folder}")
                    outcome = body(experiment)
            except AsrError as error:
                failure = type(error)(f"{job}: {error}") if job else error
                if "RANK" in os.environ:  # the other processes are still within this job
                    complain(f"{Path(script).name}: {_one_line(failure)}")
                    sys.exit(EXIT_CODE)
                if not is_process(home):
                    raise failure from error  # brought home by Hydra, which adds lines of its own
                errors.append(failure)
                return
            if outcome.interrupted:
                answer()
                raise KeyboardInterrupt  # the other jobs of a sweep shall not start

        def entry() -> None:
            errors.clear()
            sys.argv[1:] = arrange(translate_flags(sys.argv[1:]))
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to the lines below
            try:
                adopt_slurm()
                hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(run)()
            except AsrError as error:  # of a job in another process, the first one that failed
                errors.append(error)
            except (HydraException, OmegaConfBaseException) as error:
                errors.append(ConfigError(_one_line(error)))
            except OSError as error:  # Hydra makes folders
                if error.filename is None:
                    raise
                reason = f"{error.filename} cannot be used ({error.strerror}); {advise(error)}."
                errors.append(FileError(reason))
            except KeyboardInterrupt:
                if is_first():
                    complain(_describe_interruption())
                sys.exit(INTERRUPTED)
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "submitit":
                    raise
                errors.append(TrainingError(f"a job ended without a result ({_one_line(error)})."))
            for failure in errors:
                complain(f"{Path(script).name}: {_one_line(failure)}")
            if errors:
                sys.exit(EXIT_CODE)

        return entry

    return decorate


def is_process(name: str) -> bool:
    """Whether this process has that name. (A function that is sent to another one takes along what
    it knows, `PROCESS` too; this one is found there anew.)"""
    return name == PROCESS


def name_job() -> str:
    """A sweep's job by what it is told of its own; "" outside of a sweep."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return ""
    values = hydra_config.job.override_dirname.replace(",", ", ")
    return f"job {hydra_config.job.num + 1} ({values})" if values else "job 1"


def _describe_interruption() -> str:
    """What is left after Ctrl-C, which ends the jobs of this process, but not those in a queue."""
    if HydraConfig.initialized():
        launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
        if launcher != "basic":
            return (
                f"Interrupted: jobs that were handed to {launcher} go on; once they have ended, the "
                "same command goes on from their last checkpoints."
            )
    return "Interrupted: the same command goes on from the last checkpoint."


def build(config: DictConfig) -> Experiment:
    """The typed and checked experiment of a composed configuration. Raises ConfigError."""
    try:
        experiment = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(_one_line(error)) from error
    assert isinstance(experiment, Experiment)
    experiment.folder = HydraConfig.get().runtime.output_dir  # each job of a sweep has its own
    return experiment


def translate_flags(arguments: list[str]) -> list[str]:
    """Command-line flags as Hydra overrides: `--device cpu` or `--device=cpu` -> runtime.device=cpu."""
    translated = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in FLAGS:
            value = value if equals else next(rest, "")
            translated.append(f"runtime.{name}={value}")
        else:
            translated.append(argument)
    return translated


def arrange(arguments: list[str]) -> list[str]:
    """Arguments as Hydra takes them: `-m` before the overrides, which stand together, and ours.

    Hydra writes no files: the training keeps its own configuration, once it is accepted. And the
    folders of a sweep are named by what differs among its jobs alone; Hydra names them by all
    overrides. What does not differ can change, as it can for a single run: the folder then goes on,
    or is refused with the reason.
    """
    sweep = [word for word in arguments if word in ("-m", "--multirun")]
    rest = [word for word in arguments if word not in sweep]
    places = [place for place, word in enumerate(rest, start=1) if _is_override(word)]
    end = max(places, default=len(rest))
    ours = ["hydra.output_subdir=null", *(_shorten_names(rest) if sweep else [])]
    return [*sweep, *rest[:end], *ours, *rest[end:]]


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _shorten_names(arguments: list[str]) -> list[str]:
    """The override that leaves what does not differ out of the names of a sweep's folders."""
    overrides = [word for word in arguments if _is_override(word)]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:  # which Hydra will tell of
        return []
    same = [repr(o.key_or_group) for o in parsed if not o.is_sweep_override()]
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same)}]"]


def _one_line(error: Any) -> str:
    """An exception's message as one line, with what Hydra's or OmegaConf's cause adds to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, AsrError):
        return " ".join(lines)
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException | HydraException):
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
    wanted = [line for line in lines if not line.startswith(("object_type", "reference_type"))]
    return "; ".join(dict.fromkeys(wanted))
