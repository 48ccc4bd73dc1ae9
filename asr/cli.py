"""The command line: `asr transcribe | stream | align | evaluate | score | tune | lm | ...`.

Results go to stdout, progress and complaints to stderr. Exit code 0: all is well; 1: some of the
recordings failed, and are listed; 2: the command itself cannot be done. Every command imports what
it needs when it runs, so that `asr --help` answers at once.
"""

import argparse
import errno
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import averaging, examining, release
from asr.errors import EXIT_CODE, AsrError, AudioError, DataError, TextError
from asr.progress import Bar, complain, say, track
from asr.text import PROFILES, normalise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from asr.decode import DecoderConfig, Hypothesis
    from asr.endpoint import EndpointConfig
    from asr.recognizer import Recognizer
    from asr.scoring import Report

SOME_FAILED = 1
MOST = 1024  # threads or processes
INTERRUPTED = 130  # as shells report SIGINT
READER_GONE = 141  # as shells report SIGPIPE
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
DEFAULT_RATE = 16_000  # samples per second, of raw ones
DEFAULT_LATENCY_MS = 640.0  # of a stream
DEFAULT_PAUSE = 0.6  # seconds
WHOLE_SECONDS = 12.0  # a recording that is shorter is heard whole
LONG_SECONDS = 60.0  # a recording of more is shown a bar of its own

FORMATS = {  # of a transcript, each with the ending of its files
    "txt": "txt",
    "json": "json",
    "srt": "srt",
    "vtt": "vtt",
    "ctm": "ctm",
    "textgrid": "TextGrid",
}
ALIGNED_FORMATS = [name for name in FORMATS if name != "txt"]  # those that hold times
ALONE_FORMATS = ("srt", "vtt", "textgrid")  # those whose files are about one recording


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; SystemExit for `--help` and usage errors."""
    if sys.stdin is None:  # closed, as by <&-
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        complain("asr: standard output is closed.")
        return EXIT_CODE
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid Unicode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            arguments, unknown = _build_parser().parse_known_args(argv)
            if unknown:  # told by the command's own usage, options rather than what follows them
                names = [word for word in unknown if word.startswith("-")] or unknown
                arguments.parser.error(f"unrecognized arguments: {' '.join(names)}")
            code: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
        return code
    except AsrError as error:
        complain(f"asr: {_sentence(error)}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("asr: interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our results has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(f"asr: standard output cannot be written ({error.strerror}).")
        return EXIT_CODE


def _sentence(error: AsrError) -> str:
    return f"{str(error).removesuffix('.')}."


_Run = Callable[[argparse.Namespace], int]  # a command: its exit code
_Declare = Callable[[argparse.ArgumentParser], None]  # adds a command's arguments
_Add = Callable[[str, _Run | None, _Declare, str], None]  # name; None: has commands; summary


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"asr {version('asr')}")
        parser.exit()


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asr",
        description="Speech recognition with an LSTM acoustic model and CTC.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    add = _add_commands(parser)
    add("transcribe", _transcribe, _declare_transcribe, "write down what is said in recordings")
    add("stream", _stream, _declare_stream, "write down what is said while it is heard")
    add("align", _align, _declare_align, "find out when each word of a transcript is said")
    add("evaluate", _evaluate, _declare_evaluate, "transcribe a manifest and measure the errors")
    add("score", _score, _declare_score, "compare two files of texts")
    add("doctor", examining.run, examining.declare, "find what is wrong with manifests")
    add("tune", _tune, _declare_tune, "find the beam decoder's weights on a manifest")
    add("average", averaging.run, averaging.declare, "average the weights of checkpoints")
    add("release", release.run, release.declare, "make a model for others out of a training")
    add("lm", None, _declare_lm, "make, describe, measure and convert language models")
    add("info", _info, _declare_info, "describe a checkpoint, a manifest or a recording")
    return parser


def _add_commands(parser: argparse.ArgumentParser) -> _Add:
    """Let `parser` take one of several commands; returns what adds one."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: _Run | None, declare: _Declare, summary: str) -> None:
        command = commands.add_parser(
            name, help=summary, description=f"{summary}.", allow_abbrev=False
        )
        command.set_defaults(run=run, parser=command)
        declare(command)

    return add


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        default=str(_released()),
        metavar="FILE",
        help="the trained model (default: the English one that comes with asr)",
    )
    command.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda (default: auto)"
    )
    command.add_argument(
        "--threads", type=_few, metavar="N", help="CPU threads (default: one for each core)"
    )


def _released() -> Path:
    """`asr.checkpoint.RELEASED`, whose module would load torch."""
    return Path(__file__).parent / "models" / "english"


def _add_decoder_options(command: argparse.ArgumentParser) -> None:
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
    group.add_argument("--beam", type=_positive, metavar="N", help="texts that are searched on")
    group.add_argument("--alpha", type=float, metavar="X", help="weight of the language model")
    group.add_argument("--beta", type=float, metavar="X", help="nats for each word")
    group.add_argument(
        "--unknown", type=float, metavar="X", help="nats for each word that the lexicon lacks"
    )
    group.add_argument(
        "--prior", type=float, metavar="X", help="how much of each symbol's prior is taken out"
    )


def _add_latency_options(command: argparse.ArgumentParser, waits: str) -> None:
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
        help="silence after which the recogniser begins anew; 0: it never does "
        f"(default: {DEFAULT_PAUSE:g})",
    )


def _choose_endpoint(arguments: argparse.Namespace) -> "EndpointConfig | None":
    from asr.endpoint import EndpointConfig

    if arguments.pause is None:
        return EndpointConfig()
    if not 0 <= arguments.pause < float("inf"):
        raise AsrError(f"--pause {arguments.pause:g} is impossible; give seconds, 0 or more.")
    return EndpointConfig(silence=arguments.pause) if arguments.pause else None


def _choose_operating_point(
    arguments: argparse.Namespace,
) -> "tuple[float | None, EndpointConfig | None] | None":
    """What was asked for `Recognizer.set_operating_point`; None for nothing."""
    if arguments.latency is None and arguments.pause is None:
        return None
    return arguments.latency, _choose_endpoint(arguments)


def _add_profile_option(command: argparse.ArgumentParser, default: str, purpose: str) -> None:
    profiles = "; ".join(f"{name}: {description}" for name, description in PROFILES.items())
    command.add_argument(
        "--profile",
        choices=PROFILES,
        default=default,
        help=f"{purpose} (default: {default}). {profiles}",
    )


def _add_compared_profile_option(command: argparse.ArgumentParser) -> None:
    purpose = "how both sides are normalised before they are compared"
    _add_profile_option(command, "plain", purpose)


def _few(text: str) -> int:
    if _positive(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than any machine has: {MOST} at most")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


# ---- transcribe ---------------------------------------------------------------------------------


def _declare_transcribe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="recordings, folders that are searched for recordings, - for standard input",
    )
    _add_model_options(command)
    _add_latency_options(command, f"default: recordings up to {WHOLE_SECONDS:g} s are heard whole")
    _add_decoder_options(command)
    command.add_argument(
        "--nbest", type=_positive, metavar="N", help="show the N best texts (json; beam decoder)"
    )
    command.add_argument("--format", choices=FORMATS, default="txt", help="(default: txt)")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write a file for each recording into this folder instead of all to stdout",
    )


class _NamedBytes(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@dataclass(frozen=True)
class _Input:
    """A recording to transcribe: `output` is its transcript's name, without the ending."""

    name: str
    output: Path
    content: bytes | None = None  # of what can be read only once

    def open(self) -> str | _NamedBytes:
        if self.content is None:
            return self.name
        return _NamedBytes(self.content, "standard input" if self.name == "-" else self.name)


def _transcribe(arguments: argparse.Namespace) -> int:
    inputs, failures = _find_inputs(arguments.inputs)
    total = len(inputs) + len(failures)
    alone = len(arguments.inputs) == 1 and not Path(arguments.inputs[0]).is_dir()
    if arguments.nbest and arguments.format != "json":
        raise AsrError(f"--nbest shows nothing as {arguments.format}; choose --format json.")
    if arguments.output:
        _check_outputs(inputs, arguments.output, FORMATS[arguments.format])
    elif arguments.format in ALONE_FORMATS and not alone:
        raise AsrError(
            f"Several recordings cannot go to one stream as {arguments.format}; choose a folder "
            "for them with --output."
        )
    elif arguments.format == "ctm":
        _check_ctm_names(inputs)
    for given, result in _recognise(inputs, arguments):
        try:
            if isinstance(result, AsrError):
                raise result
            document = _render(given, result, arguments.format)
        except AudioError as error:
            failures.append(_sentence(error))
            continue
        if arguments.output:
            _write(_output_path(given, arguments.output, FORMATS[arguments.format]), document)
        elif arguments.format == "txt" and not alone:
            say(f"{given.name}\t{result.text}")
        elif document:
            say(document.removesuffix("\n"))
    return _list_failures(failures, total)


def _recognise(
    inputs: list[_Input], arguments: argparse.Namespace
) -> Iterator[tuple[_Input, "Hypothesis | AsrError"]]:
    from asr.decoding import choose_decoder, prepare

    decoder, hotwords = choose_decoder(arguments)
    recognizer = _load_recognizer(arguments, decoder, hotwords)
    if point := _choose_operating_point(arguments):
        recognizer.set_operating_point(*point)
    if decoder.kind == "beam":
        prepare(recognizer)
    sources = (given.open() for given in inputs)
    seconds = _measure(inputs[0]) if len(inputs) == 1 else 0.0
    if seconds > LONG_SECONDS:
        with Bar("transcribing", seconds, "s") as bar:
            for _, result in recognizer.transcribe_many(sources, heard=bar.advance):
                yield inputs[0], result
        return
    results = recognizer.transcribe_many(sources)
    if len(inputs) > 1:
        results = track(results, "transcribing", total=len(inputs), unit="recordings")
    for index, result in results:
        yield inputs[index], result


def _measure(given: _Input) -> float:
    """The seconds that a recording lasts; 0 where it cannot be read, as whoever reads it will say."""
    from asr.audio import inspect_audio

    try:
        return inspect_audio(given.open()).seconds
    except AudioError:
        return 0.0


def _load_recognizer(
    arguments: argparse.Namespace,
    decoder: "DecoderConfig | None" = None,
    hotwords: dict[str, float] | None = None,
) -> "Recognizer":
    from asr.distributed import count_cores
    from asr.recognizer import Recognizer

    threads = arguments.threads or count_cores()
    return Recognizer.load(arguments.checkpoint, arguments.device, threads, decoder, hotwords)


def _find_inputs(names: list[str]) -> tuple[list[_Input], list[str]]:
    """The recordings that are meant, and a sentence for each folder without any."""
    from asr.audio import find_audio

    if names.count("-") > 1:
        raise AsrError("Standard input (-) can be read only once; name it once.")
    inputs, failures = [], []
    for name in names:
        path = Path(name)
        if name == "-":
            inputs.append(_Input(name, Path("stdin"), sys.stdin.buffer.read()))
        elif path.is_fifo():
            inputs.append(_Input(name, Path(path.name), path.read_bytes()))
        elif path.is_dir():
            found = find_audio(name)
            inputs += [_Input(str(p), p.relative_to(name).with_suffix("")) for p in found]
            if not found:
                failures.append(f"{name} is a folder without recordings; name another.")
        else:
            inputs.append(_Input(name, Path(path.stem)))
    return inputs, failures


def _output_path(given: _Input, folder: Path, ending: str) -> Path:
    return folder / given.output.with_name(f"{given.output.name}.{ending}")


def _check_outputs(inputs: list[_Input], folder: Path, ending: str) -> None:
    """Refuse, before any work is done, to write a transcript over another."""
    if folder.exists() and not folder.is_dir():
        raise AsrError(f"{folder} is a file; name a folder for --output.")
    written: dict[Path, _Input] = {}
    for given in inputs:
        path = _output_path(given, folder, ending)
        other = written.setdefault(path, given)
        if other is not given:
            raise AsrError(
                f"{other.name} and {given.name} would both be written to {path}; transcribe them "
                "into different folders, or name a folder that holds both."
            )


def _check_ctm_names(inputs: list[_Input]) -> None:
    """Refuse recordings that one stream of CTM could not tell apart."""
    named: dict[str, _Input] = {}
    for given in inputs:
        other = named.setdefault(Path(given.name).stem, given)
        if other is not given:
            raise AsrError(
                f"{other.name} and {given.name} would have the same name in one CTM stream; write "
                "a file for each into a folder with --output."
            )


def _write(path: Path, text: str) -> None:
    from asr.files import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _list_failures(sentences: Sequence[str], total: int) -> int:
    if not sentences:
        return 0
    if total == 1:
        complain(f"asr: {sentences[0]}")
    else:
        lines = [f"asr: {len(sentences)} of {total} recordings failed:", *sentences]
        complain("\n  ".join(lines))
    return SOME_FAILED


def _render(given: _Input, hypothesis: "Hypothesis", kind: str) -> str:
    """The transcript as a file of this format holds it."""
    from asr import formats
    from asr.audio import inspect_audio

    match kind:
        case "json":
            return formats.to_json(hypothesis, given.name, inspect_audio(given.open()).seconds)
        case "textgrid":
            return formats.to_textgrid(hypothesis, inspect_audio(given.open()).seconds)
        case "ctm":
            return formats.to_ctm(hypothesis, given.name)
    plain = {"txt": formats.to_txt, "srt": formats.to_srt, "vtt": formats.to_vtt}
    return plain[kind](hypothesis)


# ---- stream -------------------------------------------------------------------------------------


def _declare_stream(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "input",
        metavar="FILE|-",
        nargs="?",
        help="a recording, or - for raw samples on standard input (one channel, 16 bits, "
        "little-endian): ffmpeg -i ... -f s16le -ac 1 -ar 16000 - | asr stream -",
    )
    _add_model_options(command)
    _add_latency_options(command, f"default: {DEFAULT_LATENCY_MS:g}")
    _add_decoder_options(command)
    command.add_argument(
        "--rate",
        type=_positive,
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


def _stream(arguments: argparse.Namespace) -> int:
    from asr.decoding import choose_decoder, prepare
    from asr.listening import listen, read_microphone, read_pieces, read_samples

    if arguments.microphone == (arguments.input is not None):
        raise AsrError("Name a recording, - for standard input, or --microphone: one of them.")
    is_piped = arguments.input == "-"
    if arguments.realtime and (is_piped or arguments.microphone):
        raise AsrError("--realtime plays a recording; what is heard live comes at its own speed.")
    if arguments.rate and not is_piped:
        raise AsrError("--rate is that of standard input (-); a recording states its own.")
    decoder, hotwords = choose_decoder(arguments)
    recognizer = _load_recognizer(arguments, decoder, hotwords)
    latency_ms = DEFAULT_LATENCY_MS if arguments.latency is None else arguments.latency
    stream = recognizer.stream(latency_ms, _choose_endpoint(arguments))
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
        return _list_failures([_sentence(error)], 1)
    except KeyboardInterrupt:
        if not arguments.microphone:  # which nothing else ends
            raise
    return 0


# ---- align --------------------------------------------------------------------------------------


def _declare_align(command: argparse.ArgumentParser) -> None:
    command.add_argument("audio", metavar="AUDIO", help="a recording, or - for standard input")
    command.add_argument(
        "text",
        metavar="TEXT",
        help="what is said in it: the words themselves in quotes, a file whose name ends in .txt, "
        "or - for standard input",
    )
    _add_model_options(command)
    _add_profile_option(command, "english", "how the text is normalised before it is aligned")
    command.add_argument(
        "--format", choices=ALIGNED_FORMATS, default="json", help="(default: json)"
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write to this file instead of stdout"
    )


def _align(arguments: argparse.Namespace) -> int:
    from asr.alignment import align

    if arguments.audio == arguments.text == "-":
        raise AsrError("Standard input (-) can be read only once; name a file for the other.")
    if Path(arguments.audio).is_dir():
        raise AudioError(f"{arguments.audio} is a folder; name one recording.")
    if arguments.output and arguments.output.is_dir():
        raise AsrError(f"{arguments.output} is a folder; name a file for --output.")
    text = normalise(_read_transcript(arguments.text), arguments.profile)
    [given], _ = _find_inputs([arguments.audio])
    recognizer = _load_recognizer(arguments)
    recognizer.endpoint = None  # the transcript is one piece, and so must be the recording
    [(_, segments)] = recognizer.emissions([given.open()])
    if isinstance(segments, AsrError):
        raise segments
    [(_, log_probs)] = segments
    hypothesis = align(
        log_probs,
        text,
        recognizer.vocabulary,
        recognizer.model.frame_seconds,
        where=f"The transcript of {given.name}",
    )
    document = _render(given, hypothesis, arguments.format)
    if arguments.output:
        _write(arguments.output, document)
    else:
        say(document.removesuffix("\n"))
    return 0


def _read_transcript(given: str) -> str:
    """The words that are given themselves, in a .txt file or on standard input."""
    if given == "-":
        name, content = "Standard input", sys.stdin.buffer.read()
    elif given.lower().endswith(".txt"):
        try:
            name, content = given, Path(given).read_bytes()
        except OSError as error:
            raise TextError(
                f"{given} cannot be read ({error.strerror}); check the path."
            ) from error
    elif Path(given).suffix and os.path.isfile(given):
        raise TextError(
            f"{given} is a file, but no .txt: rename it, or give its text on standard input (-)."
        )
    else:
        return given
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{name} is not UTF-8 text; give the transcript as plain text.") from error


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- evaluate and score -------------------------------------------------------------------------


def _declare_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", metavar="MANIFEST", help="JSONL, as asr.data reads it")
    _add_model_options(command)
    _add_latency_options(command, f"default: recordings up to {WHOLE_SECONDS:g} s are heard whole")
    _add_decoder_options(command)
    _add_compared_profile_option(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write hypotheses.jsonl and report.json into this folder",
    )
    command.add_argument(
        "--processes",
        type=_few,
        default=1,
        metavar="N",
        help="share the utterances out among so many processes; on GPUs, one each (default: 1)",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from asr.checkpoint import load_model
    from asr.data import read_manifest
    from asr.decoding import choose_decoder
    from asr.distributed import RuntimeConfig, count_cores, launch
    from asr.files import check_writable
    from asr.recognizer import BATCH_SECONDS, choose_device, group_by_seconds
    from asr.scoring import score

    if arguments.output:
        check_writable(arguments.output / "report.json")
    utterances = read_manifest(arguments.manifest)
    load_model(arguments.checkpoint)  # one complaint about it, rather than one of each process
    longest_first = sorted(utterances, key=lambda utterance: -utterance.seconds)
    batches = list(group_by_seconds(((u.seconds, u) for u in longest_first), BATCH_SECONDS))
    processes = min(arguments.processes, len(batches))
    runtime = RuntimeConfig(
        device=choose_device(arguments.device),
        processes=processes,
        threads=arguments.threads or max(1, count_cores() // processes),
    )
    point = _choose_operating_point(arguments)
    task = (arguments.checkpoint, batches, runtime, choose_decoder(arguments), point)
    found: dict[str, dict[str, Any]] = launch(_transcribe_share, task, processes)
    report = score(
        {utterance.id: utterance.text for utterance in utterances},
        {utterance.id: found[utterance.id]["pred_text"] for utterance in utterances},
        arguments.profile,
    )
    unread = {u.id: found[u.id]["error"] for u in utterances if "error" in found[u.id]}
    if arguments.output:
        lines = [
            _to_json(
                {
                    "id": utterance.id,
                    "audio_filepath": os.path.abspath(utterance.audio),
                    "duration": utterance.seconds,
                    "text": utterance.text,
                    **found[utterance.id],
                }
            )
            for utterance in utterances
        ]
        _write(arguments.output / "hypotheses.jsonl", "".join(f"{line}\n" for line in lines))
        facts = {"checkpoint": arguments.checkpoint, "manifest": arguments.manifest}
        document = {**facts, "unread": unread, **report.to_dict()}
        _write(arguments.output / "report.json", json.dumps(document, indent=1, ensure_ascii=False))
    _print_report(report, len(unread))
    failures = [f"{name}: {sentence}" for name, sentence in unread.items()]
    return _list_failures(failures, len(utterances))


def _transcribe_share(
    task: tuple[str, list[list[Any]], Any, tuple[Any, Any], Any],
) -> dict[str, dict[str, Any]]:
    """What every process does: its share of the batches; returns the results of all by id.

    The batches are the same whatever the number of processes, so the texts are too.
    """
    from asr.decoding import prepare
    from asr.distributed import gather, join
    from asr.recognizer import Recognizer

    checkpoint, batches, runtime, decoder, point = task
    with join(runtime) as place:
        first = len(batches) * place.rank // place.processes
        last = len(batches) * (place.rank + 1) // place.processes
        share = [utterance for batch in batches[first:last] for utterance in batch]
        recognizer = Recognizer.load(checkpoint, str(place.device), None, *decoder)
        if point:
            recognizer.set_operating_point(*point)
        if place.first and decoder[0].kind == "beam":
            prepare(recognizer)
        results = recognizer.transcribe_many((u.audio, u.seconds) for u in share)
        if place.first:
            results = track(results, "transcribing", total=len(share), unit="utterances")
        found: dict[str, dict[str, Any]] = {}
        for index, result in results:
            found[share[index].id] = (
                {"pred_text": "", "error": _sentence(result)}
                if isinstance(result, AsrError)
                else {"pred_text": result.text, "confidence": round(result.confidence, 4)}
            )
        return {name: result for part in gather(found) for name, result in part.items()}


def _declare_score(command: argparse.ArgumentParser) -> None:
    command.add_argument("reference", metavar="REF", help="manifest (JSONL) or Kaldi text file")
    command.add_argument(
        "hypothesis", metavar="HYP", help='the same; a "pred_text" goes before a "text"'
    )
    _add_compared_profile_option(command)
    command.add_argument("--json", action="store_true", help="print the whole report as JSON")


def _score(arguments: argparse.Namespace) -> int:
    from asr.scoring import score

    report = score(
        _read_texts(Path(arguments.reference), ("text",)),
        _read_texts(Path(arguments.hypothesis), ("pred_text", "text")),
        arguments.profile,
    )
    if arguments.json:
        say(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        _print_report(report)
    return 0


def _read_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Texts by id, from JSONL (the first of `keys` that an object has) or lines `id words ...`."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; name a manifest or Kaldi text file.") from error
    texts: dict[str, str] = {}
    is_json = next((line for line in lines if line.strip()), "").startswith("{")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, text = _parse_json_text(line, keys, where) if is_json else _parse_kaldi_text(line)
        if name in texts:
            raise DataError(f"{where}: the id {name!r} occurs twice; give every text its own.")
        texts[name] = text
    return texts


def _parse_kaldi_text(line: str) -> tuple[str, str]:
    name, *words = line.split()
    return name, " ".join(words)


def _parse_json_text(line: str, keys: Sequence[str], where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); mend or remove it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line.")
    name = record.get("id", Path(str(record.get("audio_filepath", ""))).stem)
    if name == "":
        raise DataError(f'{where} has neither "id" nor "audio_filepath"; a text needs a name.')
    text = next((record[key] for key in keys if key in record), None)
    if not isinstance(text, str):
        raise DataError(f'{where} has no string "{keys[-1]}"; write what was said there.')
    return str(name), text


def _print_report(report: "Report", unread: int = 0) -> None:
    """The summary line, the table of errors, the worst utterances."""
    say(report.summary())
    low, high = report.wer_interval()
    say(f"95 % interval of the WER, over utterances: {100 * low:.2f} to {100 * high:.2f} %")
    if unread:
        say(
            f"{unread} of {len(report.utterances)} recordings could not be transcribed: "
            "these rates count all their words as deleted."
        )
    say("")
    rows = {
        "substitutions": report.substitutions,
        "insertions": report.insertions,
        "deletions": report.deletions,
        "word errors": report.errors,
    }
    for name, count in rows.items():
        say(f"{name:<14}{count:>9,}{100 * count / max(report.words, 1):>9.2f} %")
    if report.errors:
        say(f"\nThe worst utterances:\n\n{report.alignment(5)}")


# ---- tune ---------------------------------------------------------------------------------------


def _declare_tune(command: argparse.ArgumentParser) -> None:
    command.add_argument("manifest", metavar="MANIFEST", help="a dev set (JSONL), not a test set")
    _add_model_options(command)
    _add_decoder_options(command)
    _add_compared_profile_option(command)
    command.add_argument(
        "--trials", type=_positive, default=100, metavar="N", help="(default: 100)"
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CHECKPOINT",
        help="a copy of the checkpoint to keep the weights in (default: the checkpoint itself)",
    )
    command.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw the trials' word error rates"
    )


def _tune(arguments: argparse.Namespace) -> int:
    from asr.checkpoint import save_decoder_config
    from asr.data import read_manifest
    from asr.decoding import choose_decoder, prepare, tune_decoder
    from asr.distributed import count_cores
    from asr.files import check_writable

    _check_picture(arguments.picture)
    if (arguments.output or Path(arguments.checkpoint)).is_dir():
        raise AsrError(
            f"{arguments.output or arguments.checkpoint} is a folder, a released model stays as it "
            "is; name a file for the tuned copy with --output."
        )
    output = arguments.output or Path(arguments.checkpoint)
    check_writable(output)
    utterances = read_manifest(arguments.manifest)
    config, hotwords = choose_decoder(arguments)
    if config.kind != "beam":
        raise AsrError("Only the beam decoder has weights to tune; give it a model with --lm.")
    recognizer = _load_recognizer(arguments, config, hotwords)
    prepare(recognizer)
    threads = arguments.threads or count_cores()
    best, lines = tune_decoder(
        recognizer, utterances, arguments.trials, threads, arguments.profile, arguments.picture
    )
    save_decoder_config(arguments.checkpoint, best, output)
    for line in lines:
        say(line)
    use = ["asr transcribe", f"--checkpoint {output}"]
    use += [f"--lm {config.language_model}"] if config.language_model else []
    use += [f"--lexicon {config.lexicon}"] if config.lexicon else []
    say(f"saved in {output}: {' '.join(use)} uses these weights")
    if arguments.picture:
        say(f"picture: {arguments.picture}")
    return 0


# ---- lm -----------------------------------------------------------------------------------------


def _declare_lm(command: argparse.ArgumentParser) -> None:
    add = _add_commands(command)
    add("train", _lm_train, _declare_lm_train, "estimate an n-gram model from text")
    add("info", _lm_info, _declare_lm_info, "describe a language model")
    add("perplexity", _lm_perplexity, _declare_lm_perplexity, "measure a model on text")
    add("convert", _lm_convert, _declare_lm_convert, "turn ARPA into a fast binary, or back")


def _declare_lm_train(command: argparse.ArgumentParser) -> None:
    _add_texts(command)
    command.add_argument(
        "--order",
        type=_positive,
        default=3,
        metavar="N",
        help="words in the longest n-grams, 1 to 5 (default: 3)",
    )
    command.add_argument(
        "--prune",
        type=_count,
        nargs="+",
        default=[0],
        metavar="N",
        help="drop n-grams seen so many times or less: a number for each order, the last one also "
        "for the orders after it, such as 0 0 1 (default: 0, drop none)",
    )
    command.add_argument(
        "--vocabulary-limit",
        type=_positive,
        metavar="N",
        help="know only the N most frequent words (default: all)",
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="write the model to this file: ARPA where it ends in .arpa or .arpa.gz, else a binary",
    )
    _add_quantise_option(command)


def _declare_lm_info(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)


def _declare_lm_perplexity(command: argparse.ArgumentParser) -> None:
    _add_language_model(command)
    _add_texts(command)


def _declare_lm_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="IN", help="ARPA, ARPA in gzip, or a binary")
    command.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="ARPA where it ends in .arpa or .arpa.gz, else a binary",
    )
    _add_quantise_option(command)


def _add_language_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, metavar="FILE", help="ARPA, ARPA in gzip, or a binary")


def _add_texts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "texts",
        nargs="+",
        metavar="TEXT",
        help="UTF-8 text, a sentence on each line, plain or in gzip; - for standard input",
    )


def _add_quantise_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantise", action="store_true", help="a smaller binary, of rounded numbers"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; end the list with an option")
    return int(text)


def _lm_train(arguments: argparse.Namespace) -> int:
    from asr.estimation import EstimationConfig
    from asr.modelling import train

    config = EstimationConfig(arguments.order, arguments.prune, arguments.vocabulary_limit)
    _print_facts(train(arguments.texts, config, arguments.output, arguments.quantise))
    return 0


def _lm_info(arguments: argparse.Namespace) -> int:
    from asr.modelling import describe

    _print_facts(describe(arguments.model))
    return 0


def _lm_perplexity(arguments: argparse.Namespace) -> int:
    from asr.modelling import measure

    _print_facts(measure(arguments.model, arguments.texts))
    return 0


def _lm_convert(arguments: argparse.Namespace) -> int:
    from asr.modelling import convert

    _print_facts(convert(arguments.source, arguments.output, arguments.quantise))
    return 0


# ---- info ---------------------------------------------------------------------------------------


def _declare_info(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "path",
        type=Path,
        nargs="?",
        default=_released(),
        metavar="CHECKPOINT|MANIFEST|AUDIO",
        help="(default: the English model that comes with asr)",
    )
    command.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw a recording's waveform and spectrogram, or a manifest's durations",
    )


def _info(arguments: argparse.Namespace) -> int:
    path, picture = arguments.path, arguments.picture
    _check_picture(picture)
    _KINDS[_find_kind(path)](path, picture)
    return 0


def _plain(name: str) -> str:
    """A file's name in characters that the picture's font has."""
    return name.encode("latin-1", "backslashreplace").decode("latin-1")


def _check_picture(picture: Path | None) -> None:
    if picture and picture.suffix.lower() != ".png":
        raise AsrError(f"{picture} is not the name of a PNG picture; let it end in .png.")


def _find_kind(path: Path) -> str:
    """What a file is, by its ending if that is known, else by its first bytes."""
    from asr.audio import EXTENSIONS, inspect_audio

    try:
        with path.open("rb") as file:
            head = file.read(512)
    except IsADirectoryError:
        return "checkpoint"  # a released model, or what says that it is none
    except OSError as error:
        raise AsrError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    ending = path.suffix.lower()
    if ending in EXTENSIONS:
        return "recording"
    if ending in (".pt", ".pth") or head.startswith(b"PK\x03\x04"):  # torch.save writes zip files
        return "checkpoint"
    if ending == ".jsonl" or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "manifest"
    try:
        inspect_audio(path)
    except AudioError as error:
        raise AsrError(
            f"{path} is neither a checkpoint, nor a manifest (JSONL), nor a recording; name one."
        ) from error
    return "recording"


def _describe_checkpoint(path: Path, picture: Path | None) -> None:
    from asr.checkpoint import describe, read_card

    if picture:
        raise AsrError(f"{path} is a checkpoint, of which there is no picture; omit --picture.")
    facts = describe(path)
    if card := read_card(path):
        say(card)
    _print_facts(facts)


def _describe_manifest(path: Path, picture: Path | None) -> None:
    import numpy as np

    from asr.data import read_manifest

    utterances = read_manifest(path)
    seconds = np.array([utterance.seconds for utterance in utterances])
    speakers = {utterance.speaker for utterance in utterances} - {""}
    characters = Counter(character for utterance in utterances for character in utterance.text)
    marks = (0, 5, 25, 50, 75, 95, 100)
    percentiles = np.percentile(seconds, marks)
    _print_facts(
        {
            "utterances": len(utterances),
            "hours": round(seconds.sum() / 3600, 3),
            "speakers": len(speakers) or "not stated",
            "seconds": {
                f"{mark} %": round(float(value), 2)
                for mark, value in zip(marks, percentiles, strict=True)
            },
            "words": sum(len(utterance.text.split()) for utterance in utterances),
            "characters": {repr(mark): count for mark, count in characters.most_common()},
        }
    )
    if picture:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.hist(seconds, bins=50)
        axes.set(xlabel="seconds", ylabel="utterances")
        axes.set_title(_plain(path.name), parse_math=False)
        _save_picture(figure, picture)


def _describe_recording(path: Path, picture: Path | None) -> None:
    import numpy as np

    from asr.audio import inspect_audio, load_audio

    info = inspect_audio(path)
    waveform = load_audio(path, info.sample_rate)  # (N,)
    _print_facts(
        {
            "format": f"{info.format}, {info.subtype}",
            "sample rate": f"{info.sample_rate:,} Hz",
            "channels": info.channels,
            "seconds": round(info.seconds, 3),
            "peak": _decibels(float(np.abs(waveform).max())),
            "level": f"{_decibels(float(np.sqrt(np.square(waveform, dtype=float).mean())))} (RMS)",
        }
    )
    if picture:
        _draw_recording(waveform, info.sample_rate, path.name, picture)


_KINDS = {
    "checkpoint": _describe_checkpoint,
    "manifest": _describe_manifest,
    "recording": _describe_recording,
}


def _decibels(amplitude: float) -> str:
    from math import log10

    return f"{20 * log10(amplitude):.1f} dBFS" if amplitude else "silence"


def _draw_recording(
    waveform: "npt.NDArray[np.float32]", sample_rate: int, title: str, picture: Path
) -> None:
    """The waveform (N,) above its mel spectrogram, both over the whole recording."""
    import librosa
    import librosa.display
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    librosa.display.waveshow(waveform, sr=sample_rate, ax=above)
    above.set(xlabel="", ylabel="amplitude")
    above.set_title(_plain(title), parse_math=False)
    hop = max(sample_rate // 100, len(waveform) // 4000)  # as many columns as can be seen
    window = 1 << (sample_rate // 40).bit_length()
    power = librosa.feature.melspectrogram(
        y=np.pad(waveform, (0, max(0, window - len(waveform)))),
        sr=sample_rate,
        n_fft=window,
        hop_length=hop,
        n_mels=80,
    )  # (mels, columns)
    image = librosa.display.specshow(
        librosa.power_to_db(power, ref=np.max),
        sr=sample_rate,
        n_fft=window,
        hop_length=hop,
        x_axis="time",
        y_axis="mel",
        ax=below,
    )
    figure.colorbar(image, ax=below, format="%+.0f dB")
    _save_picture(figure, picture)


def _save_picture(figure: Any, path: Path) -> None:
    from asr.files import write_atomically

    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))
    say(f"picture: {path}")


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        if isinstance(value, dict):
            say(f"{indent}{name}")
            _print_facts(value, f"{indent}  ")
        else:
            say(f"{indent}{name:<{width}}{_show(value)}")


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
