"""The command `asr stream`: transcribe speech as it arrives."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from io import BufferedReader
from queue import Queue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from asr.cli import options
from asr.cli.output import report_failures, to_json, to_sentence
from asr.decoder.hypothesis import Hypothesis
from asr.defaults import STREAM_LATENCY_MS
from asr.errors import AsrError, AudioError
from asr.formats import final_record, segment_record
from asr.progress import LiveLine, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from asr.audio.containers import AudioSource
    from asr.stream import Stream

DEFAULT_RATE = 16_000  # hertz of raw samples
PIECE_SECONDS = 0.1  # duration of the signal between two partial texts
SAMPLE_BYTES = 2
FILES = (b"RIFF", b"fLaC", b"OggS", b"\x1aE\xdf\xa3")  # first bytes of audio files, besides mp4


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "input",
        metavar="FILE|-",
        nargs="?",
        help="a recording, or - for raw samples on standard input (one channel, 16 bits, "
        "little-endian), as in: ffmpeg -i ... -f s16le -ac 1 -ar 16000 - | asr stream -",
    )
    options.add_model_options(command)
    options.add_latency_options(command, f"default: {STREAM_LATENCY_MS:g}")
    options.add_decoder_options(command)
    options.add_count_option(
        command, "--rate", f"sample rate of standard input (default: {DEFAULT_RATE})", metavar="HZ"
    )
    add(
        "--microphone",
        action="store_true",
        help="transcribe the microphone until Ctrl-C (pip install 'lstm-asr[microphone]')",
    )
    add("--realtime", action="store_true", help="read the recording at the speed of speech")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import Checkpoint

    if arguments.microphone == (arguments.input is not None):
        raise AsrError("pass one input: a recording, - for standard input, or --microphone")
    is_piped = arguments.input == "-"
    if arguments.realtime and (is_piped or arguments.microphone):
        raise AsrError("--realtime is for recordings; live input already arrives in real time")
    if arguments.rate and not is_piped:
        raise AsrError("--rate is for standard input (-); a recording states its own rate")
    checkpoint = Checkpoint.read(arguments.checkpoint)
    decoder = options.choose_decoder(arguments, checkpoint)
    recognizer = options.load_recognizer(arguments, checkpoint, *decoder)
    latency_ms = STREAM_LATENCY_MS if arguments.latency is None else arguments.latency
    stream = recognizer.stream(latency_ms, options.choose_endpoint(arguments))
    options.prepare(recognizer)
    rate = arguments.rate or (DEFAULT_RATE if is_piped else recognizer.sample_rate)
    try:
        if arguments.microphone:
            show_stream(stream, read_microphone(rate), rate)
        elif is_piped:
            show_stream(stream, read_samples(sys.stdin.buffer, rate), rate)
        else:
            show_stream(stream, read_pieces(arguments.input, rate, arguments.realtime), rate)
    except AudioError as error:
        return report_failures([to_sentence(error)], 1)
    except KeyboardInterrupt:
        if not arguments.microphone:  # the only input that Ctrl-C ends as intended
            raise
    return 0


def read_samples(file: BinaryIO, sample_rate: int) -> "Iterator[npt.NDArray[np.int16]]":
    """Yield samples (n,) of one channel, 16 bits, little-endian, as they arrive in `file`.

    Raises AudioError if the file is an audio file or ends within a sample.
    """
    import numpy as np

    size = SAMPLE_BYTES * round(sample_rate * PIECE_SECONDS)
    reader = cast(BufferedReader, file)
    rest = b""
    # read1 does not wait for more than has arrived.
    for number, data in enumerate(iter(lambda: reader.read1(size), b"")):
        if number == 0 and (data[:4] in FILES or data[4:8] == b"ftyp"):
            raise AudioError(
                "standard input is an audio file, not raw samples; pass its name instead of -, or "
                "send samples, as ffmpeg -f s16le -ac 1 does"
            )
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
    source: "AudioSource", sample_rate: int, realtime: bool
) -> "Iterator[npt.NDArray[np.float32]]":
    """Yield the samples (n,) of a recording in short pieces, each block of it in turn.

    With `realtime`, the pieces are yielded at the speed of the recording. Raises the AudioErrors of
    `read_blocks`.
    """
    from asr.audio.waveform import read_blocks

    begin, spoken = monotonic(), 0
    size = round(sample_rate * PIECE_SECONDS)
    for block in read_blocks(source, sample_rate):
        for place in range(0, len(block), size):
            piece = block[place : place + size]
            spoken += len(piece)
            if realtime:
                sleep(max(begin + spoken / sample_rate - monotonic(), 0.0))
            yield piece


def read_microphone(sample_rate: int) -> "Iterator[npt.NDArray[np.int16]]":
    """Yield samples (n,) from the default microphone until Ctrl-C.

    Raises AudioError without the extra `microphone`, and if there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError if PortAudio itself is missing
        raise AudioError(
            f"the microphone needs sounddevice and PortAudio ({error}): pip install "
            "'lstm-asr[microphone]'"
        ) from error
    pieces: Queue[npt.NDArray[np.int16]] = Queue()

    def keep(samples: "npt.NDArray[np.int16]", *_: object) -> None:  # (n, 1), in another thread
        pieces.put(samples[:, 0].copy())

    size = round(sample_rate * PIECE_SECONDS)
    try:
        with sounddevice.InputStream(sample_rate, size, channels=1, dtype="int16", callback=keep):
            while True:
                yield pieces.get()
    except sounddevice.PortAudioError as error:
        raise AudioError(f"no microphone can be read ({error}); connect one") from error


def show_stream(stream: "Stream", pieces: "Iterable[npt.NDArray[Any]]", sample_rate: int) -> None:
    """Feed pieces to a stream and show its texts: partial ones, each segment, and the last one.

    A terminal shows a line that changes and keeps the text of each finished segment. Otherwise each
    change, each segment ("segment") and the end ("final") is a line of JSON. After an AudioError of
    the pieces or Ctrl-C, the text of the samples so far is shown before the exception propagates.
    Raises AudioError for an invalid sample rate before anything is read.
    """
    import numpy as np

    stream.accept(np.zeros(0, np.float32), sample_rate)
    with LiveLine() as line:
        try:
            _show_partials(stream, pieces, line)
        except (AudioError, KeyboardInterrupt):
            if stream.seconds:
                _show_final(stream, line)
            raise
        _show_final(stream, line)


def _show_partials(stream: "Stream", pieces: "Iterable[npt.NDArray[Any]]", line: LiveLine) -> None:
    shown = ("", "")
    for samples in pieces:
        partial = stream.accept(samples)
        _show_segments(partial.segments, line)
        before = ("", "") if partial.segments else shown
        shown = (partial.stable, partial.tail)
        if shown == before:
            continue
        if line.is_live:
            line.show(*shown)
        else:
            say(to_json(partial.to_dict()), verbatim=True)


def _show_segments(segments: Iterable[Hypothesis], line: LiveLine) -> None:
    for hypothesis in segments:
        if hypothesis.text and line.is_live:
            line.print(hypothesis.text)
        elif hypothesis.text:
            say(to_json(segment_record(hypothesis)), verbatim=True)


def _show_final(stream: "Stream", line: LiveLine) -> None:
    hypothesis = stream.finish()
    _show_segments(stream.take_segments(), line)
    line.close()
    if not line.is_live:
        say(to_json(final_record(hypothesis)), verbatim=True)
    elif hypothesis.text:
        say(hypothesis.text)
