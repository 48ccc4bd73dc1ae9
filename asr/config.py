"""The sum of the components' configurations, and Hydra's way into it.

`conf/<recipe>.yaml` holds values, `Experiment` holds types. A recipe's script is a function of an
`Experiment` under `@recipe`, which composes YAML and command line, refuses in one sentence what is
misspelt, ill-typed or impossible, and ends the program with a telling exit code.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr.augment import AugmentConfig
from asr.data import read_manifest
from asr.decode import DecoderConfig
from asr.distributed import RuntimeConfig, launch
from asr.errors import EXIT_CODE, AsrError, ConfigError
from asr.features import FeaturesConfig
from asr.lstm import EncoderConfig
from asr.progress import Bar, complain, say
from asr.text import Vocabulary, normalise
from asr.train import Listener, Outcome, Task, TrainingConfig, train

FLAGS = ("device", "threads", "processes", "workers")  # `--device cpu` means runtime.device=cpu
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


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
        """Train as configured, in as many processes as configured; see `asr.train.train`."""
        training_set = read_manifest(self.data.train)
        vocabulary = Vocabulary.english()
        if self.data.vocabulary == "transcripts":
            vocabulary = Vocabulary.from_transcripts(
                normalise(u.text, "plain") for u in training_set
            )
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
        )
        outcome: Outcome = launch(train, task, self.runtime.resolve().processes)
        return outcome


class TrainingDisplay(Listener):
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
        errors: list[AsrError] = []  # of each job of a sweep

        def run(config: DictConfig) -> None:
            try:
                outcome = body(build(config))
            except AsrError as error:  # not through Hydra, which would add lines of its own
                errors.append(error)
                return
            if outcome.interrupted:
                raise KeyboardInterrupt  # the other jobs of a sweep shall not start

        def entry() -> None:
            errors.clear()
            sys.argv[1:] = translate_flags(sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to the lines below
            try:
                hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(run)()
            except (HydraException, OmegaConfBaseException) as error:
                errors.append(ConfigError(_one_line(error)))
            except KeyboardInterrupt:
                if os.environ.get("RANK", "0") == "0":
                    complain("Interrupted: the same command goes on from the last checkpoint.")
                sys.exit(INTERRUPTED)
            for failure in errors:
                complain(f"{Path(script).name}: {_one_line(failure)}")
            if errors:
                sys.exit(EXIT_CODE)

        return entry

    return decorate


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
