"""The command `asr train`: train a model on manifests, without a clone of the repository."""

import argparse

RECIPES = ("folder", "digits", "librispeech", "english")  # files of conf/
VALUES = {  # option -> configuration key, placeholder and help
    "train": ("data.train", "FILE", "manifest of the training set, JSONL (default: the recipe's)"),
    "dev": ("data.dev", "FILE", "manifest of the dev set, JSONL (default: the recipe's)"),
    "device": ("runtime.device", "NAME", "auto, cpu or cuda (default: the recipe's)"),
    "threads": ("runtime.threads", "N", "CPU threads of each process (default: the recipe's)"),
    "processes": (
        "runtime.processes",
        "N",
        "processes that train together (default: the recipe's)",
    ),
    "workers": ("runtime.workers", "N", "data loaders of each process (default: the recipe's)"),
}
EXAMPLES = """
Every value of the configuration can be set as key=value. What is not given is the recipe's:
asr train --recipe NAME --cfg job prints the whole configuration.

  asr train --train train.jsonl --dev dev.jsonl training.epochs=20
  asr train --train train.jsonl --dev dev.jsonl folder=runs/small encoder.hidden=128 augment=none
  asr train --train train.jsonl --dev dev.jsonl +start=released --device cuda

The folder (runs/NAME unless folder=... is given) receives best.pt, metrics.jsonl and curves.png.
After Ctrl-C or a crash the same command resumes from the last checkpoint.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.usage = (
        "asr train [-h] [--recipe NAME] [--train FILE --dev FILE] [options] [key=value ...]"
    )
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = EXAMPLES
    add = command.add_argument
    add(
        "--recipe",
        choices=RECIPES,
        default="folder",
        metavar="NAME",
        help=f"the configuration to start from: {', '.join(RECIPES)} (default: %(default)s)",
    )
    for name, (_, metavar, purpose) in VALUES.items():
        add(f"--{name}", metavar=metavar, help=purpose)
    add(
        "-m",
        "--multirun",
        action="store_true",
        help="train once for each combination of values, such as training.seed=1,2",
    )
    add("--cfg", choices=("job",), help="print the configuration that would be used, and exit")
    # Options may stand between values, so everything after the first value is parsed in `run`.
    add("values", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Train, and return the exit code."""
    from asr.recipe import run as run_recipe

    parser: argparse.ArgumentParser = arguments.parser
    values = [word for word in arguments.values if _is_value(word)]
    options = [word for word in arguments.values if not _is_value(word)]
    parser.parse_args(options, arguments)
    if arguments.values:
        parser.error(f"{arguments.values[0]} is not key=value")
    if bool(arguments.train) != bool(arguments.dev):
        parser.error("--train and --dev must be given together")
    words = ["--multirun"] if arguments.multirun else []
    for name, (key, *_) in VALUES.items():
        if (value := getattr(arguments, name)) is not None:
            words.append(f"{key}={_quote(value)}")
    words += values
    if arguments.cfg:
        words += ["--cfg", arguments.cfg]
    return run_recipe(arguments.recipe, words, program="asr")


def _is_value(word: str) -> bool:
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def _quote(value: str) -> str:
    """Quote a value for Hydra, in which commas, spaces and brackets have a meaning."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return value if value.isalnum() else f"'{escaped}'"
