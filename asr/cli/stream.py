"""What the command `asr stream` does: pieces of a signal go in, partial texts come out."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from io import BufferedReader
from queue import Queue
from time import monotonic, sleep
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from asr.audio.containers import AudioSource
from asr.audio.waveform import read_blocks
from asr.cli.options import (
    add_decoder_options,
    add_latency_options,
    add_model_options,
    choose_endpoint,
    load_recognizer,
    positive,
)
from asr.cli.output import list_failures, to_sentence
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError, AudioError
from asr.progress import LiveLine, say
from asr.stream import Stream

DEFAULT_RATE = 16_000  # samples per second, of raw ones
DEFAULT_LATENCY_MS = 640.0  # of a stream


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "input",
        metavar="FILE|-",
        nargs="?",
        help="a recording, or - for raw samples on standard input (one channel, 16 bits, "
        "little-endian): ffmpeg -i ... -f s16le -ac 1 -ar 16000 - | asr stream -",
    )
    add_model_options(command)
    add_latency_options(command, f"default: {DEFAULT_LATENCY_MS:g}")
    add_decoder_options(command)
    command.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help=f"samples per second on standard input (default: {DEFAULT_RATE})",
    )
    command.add_argument(
        "--microphone",
        action="store_true",
        help="listen to the microphone until Ctrl-C (pip install 'asr[microphone]')",
    )
    command.add_argument(
        "--realtime", action="store_true", help="listen to the recording at the speed of speech"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import Checkpoint
    from asr.cli.options import choose_decoder, prepare

    if arguments.microphone == (arguments.input is not None):
        raise AsrError("Name a recording, - for standard input, or --microphone: one of them.")
    is_piped = arguments.input == "-"
    if arguments.realtime and (is_piped or arguments.microphone):
        raise AsrError("--realtime plays a recording; what is heard live comes at its own speed.")
    if arguments.rate and not is_piped:
        raise AsrError("--rate is that of standard input (-); a recording states its own.")
    checkpoint = Checkpoint.read(arguments.checkpoint)
    decoder, hotwords = choose_decoder(arguments, checkpoint)
    recognizer = load_recognizer(arguments, checkpoint, decoder, hotwords)
    latency_ms = DEFAULT_LATENCY_MS if arguments.latency is None else arguments.latency
    stream = recognizer.stream(latency_ms, choose_endpoint(arguments))
    if decoder.kind == "beam":
        prepare(recognizer)
    rate = arguments.rate or (DEFAULT_RATE if is_piped else recognizer.sample_rate)
    try:
        if arguments.microphone:
            listen(stream, read_microphone(rate), rate)
        elif is_piped:
            listen(stream, read_samples(sys.stdin.buffer, rate), rate)
        else:
            listen(stream, read_pieces(arguments.input, rate, arguments.realtime), rate)
    except AudioError as error:
        return list_failures([to_sentence(error)], 1)
    except KeyboardInterrupt:
        if not arguments.microphone:  # which nothing else ends
            raise
    return 0


PIECE_SECONDS = 0.1  # of the signal between two partial texts
SAMPLE_BYTES = 2
FILES = (
    b"RIFF",
    b"fLaC",
    b"OggS",
    b"\x1aE\xdf\xa3",
)  # and mp4: how files begin, and samples do not


def read_samples(file: BinaryIO, sample_rate: int) -> Iterator[npt.NDArray[np.int16]]:
    """The samples (n,) of one channel, 16 bits, little-endian, as they arrive in `file`.

    Raises AudioError where it ends within a sample.
    """
    size = SAMPLE_BYTES * _piece(sample_rate)
    rest = b""
    begun = False
    while data := cast(BufferedReader, file).read1(size):  # without waiting for more
        if not begun and (data[:4] in FILES or data[4:8] == b"ftyp"):
            raise AudioError(
                "standard input is a file of sound, and its bytes would be taken for samples; give "
                "its name instead of -, or send samples, as ffmpeg -f s16le -ac 1 does"
            )
        begun = True
        data = rest + data
        samples = len(data) // SAMPLE_BYTES
        rest = data[samples * SAMPLE_BYTES :]
        yield np.frombuffer(data, "<i2", samples).astype(np.int16)
    if rest:
        raise AudioError(
            "standard input ends within a sample, after an odd number of bytes; send one channel "
            "of 16 bits, as ffmpeg -f s16le -ac 1 does"
        )


def read_pieces(
    source: AudioSource, sample_rate: int, realtime: bool
) -> Iterator[npt.NDArray[np.float32]]:
    """The samples (n,) of a recording in short pieces, block after block.

    `realtime`: no piece comes before the time at which it would have been spoken. Raises the
    AudioErrors of `read_blocks`.
    """
    begin, spoken = monotonic(), 0
    size = _piece(sample_rate)
    for block in read_blocks(source, sample_rate):
        for place in range(0, len(block), size):
            piece = block[place : place + size]
            spoken += len(piece)
            if realtime:
                sleep(max(begin + spoken / sample_rate - monotonic(), 0.0))
            yield piece


def read_microphone(sample_rate: int) -> Iterator[npt.NDArray[np.int16]]:
    """The samples (n,) that the default microphone hears, until Ctrl-C.

    Raises AudioError without the extra `microphone`, and where there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise AudioError(
            f"the microphone needs sounddevice and PortAudio ({error}): pip install "
            "'asr[microphone]'"
        ) from error
    pieces: Queue[npt.NDArray[np.int16]] = Queue()

    def keep(samples: npt.NDArray[np.int16], *_: object) -> None:  # (n, 1), in another thread
        pieces.put(samples[:, 0].copy())

    try:
        with sounddevice.InputStream(
            sample_rate, _piece(sample_rate), channels=1, dtype="int16", callback=keep
        ):
            while True:
                yield pieces.get()
    except sounddevice.PortAudioError as error:
        raise AudioError(f"there is no microphone to listen to ({error}): connect one") from error


def listen(stream: Stream, pieces: Iterable[npt.NDArray[Any]], sample_rate: int) -> None:
    """Show what is said while pieces arrive, what each endpoint ended, and the rest at their end.

    A terminal gets one line that changes and then the text, for each segment; anything else gets
    lines of JSON: one for each change, one for each segment ("segment"), and one for the last
    ("final"). After an AudioError of the pieces or Ctrl-C, which are raised on, the text of what
    was heard until then is shown first. A rate that is impossible is an AudioError before anything
    is read.
    """
    stream.accept(np.zeros(0, np.float32), sample_rate)
    with LiveLine() as line:
        try:
            _follow(stream, pieces, line)
        except (AudioError, KeyboardInterrupt):
            if stream.seconds:
                _conclude(stream, line)
            raise
        _conclude(stream, line)


def _follow(stream: Stream, pieces: Iterable[npt.NDArray[Any]], line: LiveLine) -> None:
    shown = ("", "")
    for samples in pieces:
        partial = stream.accept(samples)
        _show_segments(partial.segments, line)
        if partial.segments:
            shown = ("", "")
        if (partial.stable, partial.tail) == shown:
            continue
        shown = (partial.stable, partial.tail)
        if line.is_live:
            line.show(*shown)
        else:
            seconds = round(partial.seconds, 3)
            say(_to_json({"seconds": seconds, "stable": shown[0], "tail": shown[1]}))


def _show_segments(segments: Iterable[Hypothesis], line: LiveLine) -> None:
    for hypothesis in segments:
        if not hypothesis.text:
            continue
        if line.is_live:
            line.print(hypothesis.text)
        else:
            say(_to_json({"segment": True, **hypothesis.to_dict()}))


def _conclude(stream: Stream, line: LiveLine) -> None:
    hypothesis = stream.finish()
    _show_segments(stream.take_segments(), line)
    line.close()
    if line.is_live:
        if hypothesis.text:
            say(hypothesis.text)
    else:
        say(_to_json({"final": True, **hypothesis.to_dict()}))


def _piece(sample_rate: int) -> int:
    return round(sample_rate * PIECE_SECONDS)


def _to_json(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)
