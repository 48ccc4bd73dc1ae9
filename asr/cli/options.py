"""Options that several commands share, and what they mean."""

import argparse
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from asr.checkpoint import load_decoder_config
from asr.decoder.config import DecoderConfig
from asr.errors import AsrError
from asr.progress import Bar
from asr.recognizer import Recognizer
from asr.text import PROFILES, normalize

if TYPE_CHECKING:
    from asr.endpoint import EndpointConfig


MOST = 1024  # threads or processes
DEFAULT_PAUSE = 0.6  # seconds
WHOLE_SECONDS = 12.0  # a recording that is shorter is heard whole


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, a device and a number of threads."""
    command.add_argument(
        "--checkpoint",
        default=str(released_folder()),
        metavar="FILE",
        help="the trained model (default: the English one that comes with asr)",
    )
    command.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda (default: auto)"
    )
    command.add_argument(
        "--threads", type=thread_count, metavar="N", help="CPU threads (default: one for each core)"
    )


def released_folder() -> Path:
    """`asr.checkpoint.RELEASED`, whose module would load torch."""
    return Path(__file__).parents[1] / "models" / "english"


def add_decoder_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the decoder."""
    group = command.add_argument_group(
        "decoder",
        "Greedy without any of these options, a beam search with one of them; a released model has "
        "its own language model and searches always. Weights that are not given are those of "
        "`asr tune` in the checkpoint.",
    )
    group.add_argument("--decoder", choices=("greedy", "beam"))
    group.add_argument("--lm", metavar="FILE", help="language model: of `asr lm`, or ARPA")
    group.add_argument("--lexicon", metavar="FILE", help="words, one a line (default: the model's)")
    group.add_argument("--strict", action="store_true", help="write only words of the lexicon")
    group.add_argument("--hotwords", metavar="FILE", help="words or phrases to listen for")
    group.add_argument(
        "--hotword", action="append", metavar="TEXT", help="one of them; may be given often"
    )
    group.add_argument(
        "--hotword-weight", type=float, metavar="X", help="nats that each of their words earns"
    )
    group.add_argument("--beam", type=positive, metavar="N", help="texts that are searched on")
    group.add_argument("--alpha", type=float, metavar="X", help="weight of the language model")
    group.add_argument("--beta", type=float, metavar="X", help="nats for each word")
    group.add_argument(
        "--unknown", type=float, metavar="X", help="nats for each word that the lexicon lacks"
    )
    group.add_argument(
        "--prior", type=float, metavar="X", help="how much of each symbol's prior is taken out"
    )


def add_latency_options(command: argparse.ArgumentParser, waits: str) -> None:
    """Add the options of the operating point."""
    command.add_argument(
        "--latency",
        type=float,
        metavar="MS",
        help=f"milliseconds by which text may follow speech, by the algorithm alone ({waits})",
    )
    command.add_argument(
        "--pause",
        type=float,
        metavar="SECONDS",
        help="silence after which the recognizer begins anew; 0: it never does "
        f"(default: {DEFAULT_PAUSE:g})",
    )


def choose_endpoint(arguments: argparse.Namespace) -> "EndpointConfig | None":
    """The rule for endpoints that `--pause` asks for; None for no endpoints."""
    from asr.endpoint import EndpointConfig

    if arguments.pause is None:
        return EndpointConfig()
    if not 0 <= arguments.pause < float("inf"):
        raise AsrError(f"--pause {arguments.pause:g} is impossible; give seconds, 0 or more.")
    return EndpointConfig(silence=arguments.pause) if arguments.pause else None


def choose_operating_point(
    arguments: argparse.Namespace,
) -> "tuple[float | None, EndpointConfig | None] | None":
    """What was asked for `Recognizer.set_operating_point`; None for nothing."""
    if arguments.latency is None and arguments.pause is None:
        return None
    return arguments.latency, choose_endpoint(arguments)


def add_profile_option(command: argparse.ArgumentParser, default: str, purpose: str) -> None:
    """Add `--profile`, the normalization of texts."""
    profiles = "; ".join(f"{name}: {description}" for name, description in PROFILES.items())
    command.add_argument(
        "--profile",
        choices=PROFILES,
        default=default,
        help=f"{purpose} (default: {default}). {profiles}",
    )


def add_compared_profile_option(command: argparse.ArgumentParser) -> None:
    """Add `--profile` for a command that compares texts."""
    purpose = "how both sides are normalized before they are compared"
    add_profile_option(command, "plain", purpose)


def thread_count(text: str) -> int:
    """A number of threads or processes, for argparse."""
    if positive(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than any machine has: {MOST} at most")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def load_recognizer(
    arguments: argparse.Namespace,
    decoder: "DecoderConfig | None" = None,
    hotwords: dict[str, float] | None = None,
) -> "Recognizer":
    """Load the recognizer that the options choose."""
    from asr.recognizer import Recognizer
    from asr.runtime.device import count_cores

    threads = arguments.threads or count_cores()
    return Recognizer.load(arguments.checkpoint, arguments.device, threads, decoder, hotwords)


WEIGHTS = ("alpha", "beta", "unknown", "prior")
NOTICE_SECONDS = 1.0  # what takes longer is told


def choose_decoder(arguments: argparse.Namespace) -> tuple[DecoderConfig, dict[str, float]]:
    """The decoder that the options describe, and the hotwords of `--hotword` with their weights.

    What they leave open is as the checkpoint's tuning left it; a released model decodes with its own
    language model where they name none. Raises AsrError where an option
    would not act.
    """
    numbers = ("beam", *WEIGHTS, "hotword_weight", "nbest")
    names = {"language_model": "lm", "lexicon": "lexicon", "hotwords": "hotwords"}
    given: dict[str, Any] = {name: getattr(arguments, name, None) for name in numbers}
    given |= {name: getattr(arguments, option) for name, option in names.items()}
    given["strict"] = arguments.strict or None
    given = {name: value for name, value in given.items() if value is not None}
    options = [f"--{names.get(name, name).replace('_', '-')}" for name in given]
    options += ["--hotword"] * bool(arguments.hotword)
    if arguments.decoder == "greedy":
        if options:
            raise AsrError(f"The greedy decoder knows no {options[0]}; choose --decoder beam.")
        return DecoderConfig(), {}
    own = load_decoder_config(arguments.checkpoint)
    modeled = bool(given.get("language_model") or own.language_model)
    if arguments.decoder is None and not options and not modeled:
        return DecoderConfig(), {}

    guided = modeled or "lexicon" in given
    if "alpha" in given and not modeled:
        raise AsrError("--alpha weighs a language model; name one with --lm.")
    for name in ("beta", "unknown", "prior", "strict"):
        if name in given and not guided:
            raise AsrError(f"--{name} needs to know words; name a model or list: --lm, --lexicon.")
    if "prior" in given and not own.priors:
        raise AsrError(
            "--prior weighs the symbols' shares, which this checkpoint lacks: run asr tune."
        )
    if given.get("strict") and "unknown" in given:
        raise AsrError("--strict allows no unknown words; leave out --unknown.")
    if "hotword_weight" in given and not (arguments.hotwords or arguments.hotword):
        raise AsrError("--hotword-weight weighs hotwords; name some with --hotwords, --hotword.")
    config = replace(own, **{**given, "kind": "beam"})
    hotwords = {normalize(text, "plain"): config.hotword_weight for text in arguments.hotword or []}
    return config, hotwords


def prepare(recognizer: Recognizer) -> None:
    """Have a beam decoder compiled before it is needed, and say so if that takes its time."""
    symbols = len(recognizer.vocabulary)
    nothing = np.full((2, symbols), -np.log(symbols), np.float32)
    decoder = recognizer.decoder

    def use() -> None:
        decoder.decode(nothing)
        decoder.partial(decoder.start())

    thread = Thread(target=use)
    thread.start()
    thread.join(NOTICE_SECONDS)
    if thread.is_alive():
        with Bar("compiling the beam decoder, only this once", None):
            thread.join()
