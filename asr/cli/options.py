"""Options that several commands share, and the objects that they choose."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from asr.defaults import LARGEST_COUNT, PAUSE_SECONDS, WHOLE_SECONDS
from asr.errors import AsrError, quote
from asr.progress import Bar
from asr.release import RELEASED
from asr.text import PROFILES, normalize

if TYPE_CHECKING:
    from asr.checkpoint import Checkpoint
    from asr.decoder.config import DecoderConfig
    from asr.endpoint import EndpointConfig
    from asr.recognizer import OperatingPoint, Recognizer

WEIGHTS = ("alpha", "beta", "unknown", "prior")
NUMBERS = ("beam", *WEIGHTS, "hotword_weight", "nbest")
FILES = {"language_model": "lm", "lexicon": "lexicon", "hotwords": "hotwords"}  # field -> option
NOTICE_SECONDS = 1.0  # a compilation that takes longer is announced
COMMENTS = "; lines that begin with `# ` are comments"
STORED = (
    "options that are not given take their values from there, and the defaults below are those of a "
    "checkpoint that was not tuned."
)
DECODE = (
    "A beam search is used if one of these options is given or the model comes with its own language "
    "model, as the English one does; otherwise decoding is greedy. `asr tune` tunes the beam search "
    f"and stores the weights in the checkpoint; {STORED}"
)
TUNE = (
    "The weights given here are those of the first trial; the beam width, the language model and the "
    "hotwords are the same in all trials. The best weights are stored in the checkpoint; "
    f"{STORED}"
)


def add_model_options(
    command: argparse.ArgumentParser, threads: str = "CPU threads (default: one per core)"
) -> None:
    """Add the options that choose a model, a device and a number of threads."""
    add = command.add_argument
    add(
        "--checkpoint",
        default=str(RELEASED),
        metavar="FILE",
        help="a checkpoint, or the folder of a released model (default: the English model that "
        "comes with asr)",
    )
    add("--device", default="auto", help="auto (the default: a GPU if there is one), cpu or cuda")
    add("--threads", type=thread_count, metavar="N", help=threads)


def add_decoder_options(command: argparse.ArgumentParser, for_tuning: bool = False) -> None:
    """Add the options of the decoder; `for_tuning`: as the starting point of `asr tune`."""
    group = command.add_argument_group("decoder", TUNE if for_tuning else DECODE)
    add = group.add_argument
    if for_tuning:
        add("--decoder", choices=["beam"], help="the decoder to tune: only beam has weights")
    else:
        add(
            "--decoder",
            choices=["greedy", "beam"],
            help="which decoder to use (default: beam with another of these options or a model that "
            "has its own language model, otherwise greedy)",
        )
    for option, purpose in {
        "--lm": "n-gram language model, made by `asr lm` or in ARPA format",
        "--lexicon": f"known words, one per line{COMMENTS} (default: those of the language model)",
        "--hotwords": "words or phrases to favor, one per line, with an optional weight after a tab"
        f"{COMMENTS}",
    }.items():
        add(option, metavar="FILE", help=purpose)
    strict = "write only words of the lexicon; requires --lexicon or a language model"
    add("--strict", action="store_true", help=strict)
    add("--hotword", action="append", metavar="TEXT", help="a word or phrase to favor; repeatable")
    add("--beam", type=positive, metavar="N", help="beam width (default: 32)")
    for option, purpose in {
        "--hotword-weight": "bonus per word of a hotword that has no weight in the file (default: 3)",
        "--alpha": "weight of the language model, which it requires (default: 0.4)",
        "--beta": "bonus per word; requires --lexicon or a language model (default: 3)",
        "--unknown": "additional bonus per word that is not in the lexicon, usually negative; "
        "requires --lexicon or a language model (default: -2.5)",
        "--prior": "weight of the symbol priors that are subtracted from the acoustic scores; "
        "requires --lexicon or a language model, and a tuned checkpoint (default: 0)",
    }.items():
        add(option, type=float, metavar="X", help=purpose)


def add_latency_options(
    command: argparse.ArgumentParser,
    default: str = f"default: recordings shorter than {WHOLE_SECONDS:g} s are encoded whole, longer "
    "ones in chunks",
) -> None:
    """Add the options of the operating point; `default` describes the latency without them."""
    command.add_argument(
        "--latency",
        type=float,
        metavar="MS",
        help="algorithmic latency: how many milliseconds the text may lag behind the speech "
        f"({default})",
    )
    command.add_argument(
        "--pause",
        type=float,
        metavar="SECONDS",
        help="length of a silence that ends a segment; the next segment is recognized independently "
        f"of it. 0 turns segmentation off (default: {PAUSE_SECONDS:g})",
    )


def add_profile_option(
    command: argparse.ArgumentParser,
    default: str = "plain",
    purpose: str = "how both texts are normalized before they are compared",
) -> None:
    """Add `--profile`, the normalization of texts."""
    profiles = "; ".join(f"{name}: {description}" for name, description in PROFILES.items())
    command.add_argument(
        "--profile",
        choices=PROFILES,
        default=default,
        help=f"{purpose} (default: {default}). {profiles}",
    )


def add_count_option(
    command: argparse._ActionsContainer, name: str, purpose: str, **settings: Any
) -> None:
    """Add an option that takes a whole number above 0; `settings` as of `add_argument`."""
    command.add_argument(name, help=purpose, **{"type": positive, "metavar": "N", **settings})


def add_track_option(command: argparse.ArgumentParser, verb: str) -> None:
    """Add `--track`, which chooses among several audio tracks; `verb` is what is done with it."""
    purpose = f"number of the audio track to {verb}, for recordings with several (default: the "
    add_count_option(
        command, "--track", purpose + "container's default track, otherwise the first)"
    )


def add_output_option(
    command: argparse.ArgumentParser, metavar: str, purpose: str, required: bool = False
) -> None:
    """Add `--output`, the file or folder to write."""
    command.add_argument(
        "-o", "--output", type=Path, metavar=metavar, help=purpose, required=required
    )


def add_picture_option(command: argparse.ArgumentParser, purpose: str) -> None:
    """Add `--picture`, a PNG file to write; see `check_picture`."""
    command.add_argument("--picture", type=Path, metavar="FILE.png", help=purpose)


def thread_count(text: str) -> int:
    """Parse a number of threads or processes."""
    return at_most(LARGEST_COUNT)(text)


def at_most(limit: int) -> Callable[[str], int]:
    """A parser of whole numbers from 1 to `limit`."""

    def parse(text: str) -> int:
        if positive(text) > limit:
            raise argparse.ArgumentTypeError(f"{text[:40]} is too large; use {limit} at most")
        return int(text)

    return parse


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{quote(text)} is not a whole number above 0")
    return int(text)


def choose_endpoint(arguments: argparse.Namespace) -> "EndpointConfig | None":
    """The endpoint configuration that `--pause` asks for; None for a single segment."""
    from asr.endpoint import EndpointConfig

    if arguments.pause is None:
        return EndpointConfig()
    if not 0 <= arguments.pause < float("inf"):
        raise AsrError(
            f"--pause is {arguments.pause:g}; it must be a finite number of seconds, 0 or more"
        )
    return EndpointConfig(silence=arguments.pause) if arguments.pause else None


def choose_operating_point(arguments: argparse.Namespace) -> "OperatingPoint | None":
    """The operating point that `--latency` and `--pause` ask for; None if neither is given.

    Check it with `Recognizer.check_operating_point`.
    """
    from asr.recognizer import OperatingPoint

    if arguments.latency is None and arguments.pause is None:
        return None
    return OperatingPoint(arguments.latency, choose_endpoint(arguments))


def choose_decoder(
    arguments: argparse.Namespace, checkpoint: "Checkpoint"
) -> "tuple[DecoderConfig, dict[str, float]]":
    """The decoder that the options describe, and the weights of the hotwords of `--hotword`.

    Numbers that no option gives come from the checkpoint, and so does the language model of a
    released model. Raises AsrError for an option that would have no effect.
    """
    from asr.decoder.config import DecoderConfig

    given: dict[str, Any] = {name: getattr(arguments, name, None) for name in NUMBERS}
    given |= {field: getattr(arguments, option) for field, option in FILES.items()}
    given["strict"] = arguments.strict or None
    given = {name: value for name, value in given.items() if value is not None}
    options = [f"--{FILES.get(name, name).replace('_', '-')}" for name in given]
    options += ["--hotword"] * bool(arguments.hotword)
    if arguments.decoder == "greedy":
        if options:
            raise AsrError(f"{options[0]} requires the beam decoder; use --decoder beam")
        return DecoderConfig(), {}
    stored = checkpoint.decoder
    if arguments.decoder is None and not options and not stored.language_model:
        return DecoderConfig(), {}
    _check_decoder_options(arguments, given, stored)
    config = replace(stored, **{**given, "kind": "beam"})
    hotwords = {normalize(text, "plain"): config.hotword_weight for text in arguments.hotword or []}
    return config, hotwords


def _check_decoder_options(
    arguments: argparse.Namespace, given: dict[str, Any], stored: "DecoderConfig"
) -> None:
    """Raise AsrError for an option of the beam decoder that would have no effect."""
    has_model = bool(given.get("language_model") or stored.language_model)
    if "alpha" in given and not has_model:
        raise AsrError("--alpha weighs a language model; specify one with --lm")
    for name in ("beta", "unknown", "prior", "strict"):
        if name in given and not has_model and "lexicon" not in given:
            raise AsrError(f"--{name} needs known words; specify a file with --lm or --lexicon")
    if "prior" in given and not stored.priors:
        raise AsrError("--prior needs symbol priors, which this checkpoint lacks; run `asr tune`")
    if given.get("strict") and "unknown" in given:
        raise AsrError("--strict excludes unknown words; leave out --unknown")
    if "hotword_weight" in given and not (arguments.hotwords or arguments.hotword):
        raise AsrError("--hotword-weight needs hotwords; add some with --hotwords or --hotword")


def load_recognizer(
    arguments: argparse.Namespace,
    checkpoint: "Checkpoint",
    decoder: "DecoderConfig",
    hotwords: dict[str, float] | None = None,
) -> "Recognizer":
    """Load the recognizer of a checkpoint on the device and the threads that the options choose."""
    from asr.recognizer import Recognizer
    from asr.runtime.device import count_cores

    threads = arguments.threads or count_cores()
    return Recognizer.load(checkpoint, arguments.device, threads, decoder, hotwords)


def prepare(recognizer: "Recognizer") -> None:
    """Compile a beam decoder in advance, with a progress bar if this takes long."""
    warm_up = getattr(recognizer.decoder, "warm_up", None)
    if warm_up is None:  # the greedy decoder is not compiled
        return
    thread = Thread(target=warm_up)
    thread.start()
    thread.join(NOTICE_SECONDS)
    if thread.is_alive():
        with Bar("compiling the beam decoder, only this once", None):
            thread.join()
