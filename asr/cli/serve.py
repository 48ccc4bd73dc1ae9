"""The command `asr serve`: recognize speech for programs, browsers and other machines."""

import argparse
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli import options
from asr.defaults import STREAM_LATENCY_MS
from asr.errors import AsrError
from asr.release import CARD, RELEASED

if TYPE_CHECKING:
    from asr.server.config import ServerConfig
    from asr.server.wyoming import WyomingDoor

PORT, WYOMING_PORT = 8080, 10_300


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=port, default=PORT, metavar="N", help=f"TCP port (default: {PORT})")
    add(
        "--wyoming",
        type=port,
        nargs="?",
        const=WYOMING_PORT,
        metavar="PORT",
        help="serve the Wyoming protocol of Home Assistant too, at this TCP port (default: "
        f"{WYOMING_PORT}; pip install 'lstm-asr[wyoming]')",
    )
    add(
        "--keys",
        type=Path,
        metavar="FILE",
        help="accept only clients that present one of the keys in this file, one per line",
    )
    add(
        "--public",
        action="store_true",
        help="let anyone who can reach the server use it without a key",
    )
    options.add_model_options(
        command, "threads for live streams, and CPU threads for recordings (default: one per core)"
    )
    options.add_latency_options(
        command, f"for live streams that choose none; default: {STREAM_LATENCY_MS:g}"
    )
    options.add_decoder_options(command)
    add(
        "--language",
        default="en",
        metavar="CODE",
        help="language of the model, as a code of two letters (default: en)",
    )
    limits = command.add_argument_group("limits")
    options.add_count_option(limits, "--streams", "live streams at a time (default: 200)")
    options.add_count_option(
        limits, "--uploads", "recordings that wait or are transcribed at a time (default: 64)"
    )
    for name, unit, default, purpose in (
        ("--upload-mb", "MB", 500, "largest request body in megabytes"),
        ("--upload-seconds", "SECONDS", 21_600, "longest recording"),
        ("--idle", "SECONDS", 60, "seconds without data from a client before it is disconnected"),
        ("--stop", "SECONDS", 30, "how long running requests may last after SIGTERM"),
    ):
        limits.add_argument(
            name,
            type=float,
            default=default,
            metavar=unit,
            help=f"{purpose} (default: {default:,})",
        )
    add("--log-texts", action="store_true", help="write what is recognized into the log as well")


def port(text: str) -> int:
    """Parse a TCP port."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; use a number from 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command until SIGTERM or Ctrl-C and return the exit code. Raises AsrError."""
    try:
        from asr.server.serving import listen, serve
    except ImportError as error:
        raise AsrError(
            f"the server needs {error.name}; install it with pip install 'lstm-asr[serve]'"
        ) from None
    from asr.checkpoint import Checkpoint
    from asr.server.config import ServerConfig, name_of, read_keys
    from asr.server.engine import Engine, share_memory

    config = ServerConfig(
        host=arguments.host,
        port=arguments.port,
        wyoming_port=arguments.wyoming,
        keys=read_keys(arguments.keys) if arguments.keys else (),
        model=name_of(arguments.checkpoint, str(RELEASED)),
        language=arguments.language.lower(),
        card=read_card(Path(arguments.checkpoint)),
        latency_ms=STREAM_LATENCY_MS if arguments.latency is None else arguments.latency,
        endpoint=options.choose_endpoint(arguments),
        streams=arguments.streams or 200,
        uploads=arguments.uploads or 64,
        upload_mb=arguments.upload_mb,
        upload_seconds=arguments.upload_seconds,
        idle_seconds=arguments.idle,
        stop_seconds=arguments.stop,
        log_texts=arguments.log_texts,
    )
    check_access(config, arguments.public)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(config.host, config.port))
        door = None
        if config.wyoming_port is not None:
            wyoming = listen(config.host, config.wyoming_port, "--wyoming")
            door = make_door(stack.enter_context(wyoming))
        checkpoint = Checkpoint.read(arguments.checkpoint)
        decoder = options.choose_decoder(arguments, checkpoint)
        recognizer = options.load_recognizer(arguments, checkpoint, *decoder)
        recognizer.stream(config.latency_ms, config.endpoint)  # refuses what cannot stream
        options.prepare(recognizer)
        share_memory()
        engine = Engine(recognizer, config.streams, config.uploads, arguments.threads)
        return serve(engine, config, listening, door)


def check_access(config: "ServerConfig", is_public: bool) -> None:
    """Raise AsrError if everybody could use the server without being invited."""
    if config.is_loopback or is_public:
        return
    if not config.keys:
        raise AsrError(
            f"{config.host} can be reached from other machines; choose who may use the server with "
            "--keys FILE, or serve everybody with --public"
        )
    if config.wyoming_port is not None:
        raise AsrError(
            f"Wyoming has no keys, and {config.host} can be reached from other machines; leave out "
            "--wyoming, or open it to everybody with --public"
        )


def make_door(listening: socket.socket) -> "WyomingDoor":
    """What serves Wyoming at an open port. Raises AsrError if its package is missing."""
    try:
        from asr.server.wyoming import WyomingDoor
    except ImportError as error:
        raise AsrError(
            f"--wyoming needs {error.name}; install it with pip install 'lstm-asr[wyoming]'"
        ) from None
    return WyomingDoor(listening)


def read_card(checkpoint: Path) -> str:
    """The model card in a released folder; empty if there is none."""
    card = checkpoint / CARD
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
