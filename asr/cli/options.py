"""Options that several commands share, and what they mean."""

import argparse
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError
from asr.progress import Bar
from asr.release import RELEASED
from asr.text import PROFILES, normalize

if TYPE_CHECKING:
    from asr.checkpoint import Checkpoint
    from asr.decoder.config import DecoderConfig
    from asr.endpoint import EndpointConfig
    from asr.recognizer import OperatingPoint, Recognizer


MOST = 1024  # threads or processes
DEFAULT_PAUSE = 0.6  # seconds
WHOLE_SECONDS = 12.0  # a recording that is shorter is heard whole


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, a device and a number of threads."""
    command.add_argument(
        "--checkpoint",
        default=str(RELEASED),
        metavar="FILE",
        help="the trained model (default: the English one that comes with asr)",
    )
    command.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda (default: auto)"
    )
    command.add_argument(
        "--threads", type=thread_count, metavar="N", help="CPU threads (default: one for each core)"
    )


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


def choose_operating_point(arguments: argparse.Namespace) -> "OperatingPoint | None":
    """The operating point that `--latency` and `--pause` ask for; None if neither is given.

    Check it with `Recognizer.check_operating_point`.
    """
    from asr.recognizer import OperatingPoint

    if arguments.latency is None and arguments.pause is None:
        return None
    return OperatingPoint(arguments.latency, choose_endpoint(arguments))


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
    checkpoint: "Checkpoint",
    decoder: "DecoderConfig",
    hotwords: dict[str, float] | None = None,
) -> "Recognizer":
    """Load the recognizer of a checkpoint on the device and the threads that the options choose."""
    from asr.recognizer import Recognizer
    from asr.runtime.device import count_cores

    threads = arguments.threads or count_cores()
    return Recognizer.load(checkpoint, arguments.device, threads, decoder, hotwords)


WEIGHTS = ("alpha", "beta", "unknown", "prior")
NOTICE_SECONDS = 1.0  # a compilation that takes longer is announced


def choose_decoder(
    arguments: argparse.Namespace, checkpoint: "Checkpoint"
) -> "tuple[DecoderConfig, dict[str, float]]":
    """The decoder that the options describe, and the hotwords of `--hotword` with their bonuses.

    Settings that are not given are the checkpoint's own, tuned ones; a released model uses its own
    language model unless another is given. Raises AsrError if an option would have no effect.
    """
    from asr.decoder.config import DecoderConfig

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
            raise AsrError(f"the greedy decoder has no {options[0]}; choose --decoder beam")
        return DecoderConfig(), {}
    own = checkpoint.decoder
    modeled = bool(given.get("language_model") or own.language_model)
    if arguments.decoder is None and not options and not modeled:
        return DecoderConfig(), {}

    guided = modeled or "lexicon" in given
    if "alpha" in given and not modeled:
        raise AsrError("--alpha needs a language model; name one with --lm")
    for name in ("beta", "unknown", "prior", "strict"):
        if name in given and not guided:
            raise AsrError(f"--{name} needs a list of words; name one with --lm or --lexicon")
    if "prior" in given and not own.priors:
        raise AsrError("--prior needs symbol priors, which this checkpoint lacks; run asr tune")
    if given.get("strict") and "unknown" in given:
        raise AsrError("--strict allows no unknown words; leave out --unknown")
    if "hotword_weight" in given and not (arguments.hotwords or arguments.hotword):
        raise AsrError("--hotword-weight needs hotwords; name some with --hotwords or --hotword")
    config = replace(own, **{**given, "kind": "beam"})
    hotwords = {normalize(text, "plain"): config.hotword_weight for text in arguments.hotword or []}
    return config, hotwords


def prepare(recognizer: "Recognizer") -> None:
    """Compile a beam decoder before it is needed, with a notice if that takes a while."""
    from asr.decoder.beam import BeamDecoder

    if not isinstance(recognizer.decoder, BeamDecoder):
        return
    thread = Thread(target=recognizer.decoder.warm_up)
    thread.start()
    thread.join(NOTICE_SECONDS)
    if thread.is_alive():
        with Bar("compiling the beam decoder, only this once", None):
            thread.join()
