"""Label recordings without transcripts by a recognizer, and write a manifest of those it is sure of.

    python recipes/english/label.py clips --recognizer released -o data/english/ours.jsonl
    python recipes/english/label.py clips --recognizer whisper:models/whisper-base \\
        --agree data/english/ours.tsv --without data/english/dev.jsonl -o data/english/whisper.jsonl

A recognizer is a checkpoint, a released model's folder, `released` for the model that comes with asr,
or `whisper:` and the folder of a Whisper model in CTranslate2's format (extra `whisper`). Every label
is written into a table beside the manifest (labels.py says what it holds) as soon as it is made; after
an interruption, the same command continues. The manifest holds the labels of which the recognizer was
sure, with numbers in words, and says in "text_source" who wrote them.
"""

import argparse
import importlib
import math
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from labels import (
    LEAST_LOG_PROB,
    MOST_COMPRESSION,
    MOST_DIFFERENCE,
    Label,
    leave_out,
    read_labels,
    read_table,
)

from asr.audio.waveform import find_audio, load_audio
from asr.data.manifest import read_manifest, write_records
from asr.decoder.hypothesis import Hypothesis
from asr.errors import EXIT_CODE, INTERRUPTED, AsrError, ConfigError, DataError, FileError
from asr.progress import Bar, complain, say
from asr.recognizer import Recognizer
from asr.release import RELEASED

SAMPLE_RATE = 16_000
# Whisper's encoder always computes its whole window, so a shorter one than its 30 s is faster; below
# 16 s, or right behind the last word, it falls into loops.
LEAST_WINDOW, MOST_WINDOW, MARGIN = 16.0, 30.0, 2.0  # seconds


class Whisper:
    """A Whisper model in CTranslate2's format, as a recognizer of English.

    Raises ConfigError if faster-whisper is not installed or the folder holds no model.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        try:
            package = importlib.import_module("faster_whisper")
            tokenizer = importlib.import_module("faster_whisper.tokenizer")
            self._make_array = importlib.import_module("ctranslate2").StorageView.from_array
        except ImportError:
            raise ConfigError(
                "labels by Whisper need faster-whisper, which is not installed; "
                "pip install 'lstm-asr[whisper]'"
            ) from None
        if not (folder / "model.bin").is_file():
            raise ConfigError(
                f"{folder} holds no Whisper model (model.bin) of CTranslate2; name its folder after "
                "whisper:"
            )
        model = package.WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads
        )
        self._model, self._extract = model.model, model.feature_extractor
        self._tokenizer = tokenizer.Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en"
        )

    def label(self, paths: Sequence[Path]) -> Iterator[tuple[int, Label | AsrError]]:
        """Yield the index of each recording with its label, or with its error."""
        for index, path in enumerate(paths):
            try:
                waveform = load_audio(path, SAMPLE_RATE)
            except AsrError as error:
                yield index, error
                continue
            seconds = len(waveform) / SAMPLE_RATE
            window = min(max(LEAST_WINDOW, seconds + MARGIN), MOST_WINDOW)
            label = self._transcribe(path, waveform, window)
            if label.compression > MOST_COMPRESSION and window < MOST_WINDOW:
                label = self._transcribe(path, waveform, MOST_WINDOW)
            yield index, label

    def _transcribe(self, path: Path, waveform: Any, window: float) -> Label:
        """The label of a recording (N,) whose end beyond the window is not heard."""
        samples = waveform[: round(window * SAMPLE_RATE)]
        padded = np.pad(samples, (0, round(window * SAMPLE_RATE) - len(samples)))
        features = self._extract(padded, padding=0)
        frames = features.shape[1] // 2 * 2  # the encoder halves their number
        [found] = self._model.generate(
            self._make_array(np.ascontiguousarray(features[None, :, :frames])),
            [[*self._tokenizer.sot_sequence, self._tokenizer.no_timestamps]],
            beam_size=5,
            return_scores=True,
            return_no_speech_prob=True,
            max_length=224,
        )
        text = " ".join(self._tokenizer.decode(found.sequences_ids[0]).split())
        seconds = len(waveform) / SAMPLE_RATE
        return Label(
            str(path), seconds, text, found.scores[0], found.no_speech_prob, compression(text)
        )


class Ours:
    """A model of asr; the logarithm of its confidence is the mean log-probability of the words."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self._recognizer = Recognizer.load(checkpoint, threads=threads)

    def label(self, paths: Sequence[Path]) -> Iterator[tuple[int, Label | AsrError]]:
        """Yield the index of each recording with its label, or with its error."""
        for index, found in self._recognizer.transcribe_many(paths):
            if isinstance(found, Hypothesis):
                log_prob = math.log(max(found.confidence, 1e-30))
                silence = float(not found.text)
                ratio = compression(found.text)
                seconds = found.seconds or 0.0
                label = Label(str(paths[index]), seconds, found.text, log_prob, silence, ratio)
                yield index, label
            else:
                yield index, found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    table = options.output.with_suffix(".tsv")
    try:
        other = read_table(options.agree) if options.agree else None
        forbidden = {u.text for manifest in options.without for u in read_manifest(manifest)}
        paths = find_recordings(options.folder)
        label_recordings(paths, options.recognizer, table, options.threads)
        utterances, rejects = read_labels(
            table, options.folder, options.least_log_prob, other, options.most_difference
        )
        kept = leave_out(utterances, rejects, forbidden, table)
        if not kept:
            raise DataError(
                f"{table} holds no label that is good enough; lower --least-log-prob, or use a better "
                "--recognizer"
            )
        labels = read_table(table)
        write_records(
            options.output,
            (
                {
                    "id": utterance.id,
                    "audio_filepath": utterance.audio,
                    "duration": utterance.seconds,
                    "text": utterance.text,
                    "text_source": options.recognizer,
                    "log_prob": labels[Path(utterance.audio).name].log_prob,
                }
                for utterance in kept
            ),
        )
        say(f"{options.output}: {len(kept):,} utterances")
    except AsrError as error:
        complain(f"label.py: {error}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("Interrupted; run the same command again to continue.")
        return INTERRUPTED
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="the recordings")
    add(
        "--recognizer",
        default="released",
        metavar="NAME",
        help="a checkpoint, a released model, or whisper:FOLDER (%(default)s)",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the manifest (.jsonl); the table of all labels gets the same name with .tsv",
    )
    add(
        "--least-log-prob",
        type=float,
        default=LEAST_LOG_PROB,
        metavar="X",
        help="least mean log-probability of a label that is used (%(default)s)",
    )
    add(
        "--agree",
        type=Path,
        metavar="FILE",
        help="another recognizer's table, with which a label has to agree",
    )
    add(
        "--most-difference",
        type=float,
        default=MOST_DIFFERENCE,
        metavar="X",
        help="largest share of words in which the two may differ (%(default)s)",
    )
    add(
        "--without",
        nargs="+",
        type=Path,
        default=[],
        metavar="MANIFEST",
        help="manifests of dev and test sets, whose sentences are left out",
    )
    add("--threads", type=int, default=1, help="threads of the recognizer (%(default)s)")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".jsonl":
        parser.error(f"--output is {options.output}; the name of a manifest ends with .jsonl")
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def find_recordings(folder: Path) -> list[Path]:
    """The recordings right in a folder. Raises AudioError and DataError."""
    paths = [path for path in find_audio(folder) if path.parent == folder]
    if not paths:
        raise DataError(f"{folder} holds no recording; name the folder that holds them")
    return paths


def load_recognizer(name: str, threads: int) -> Ours | Whisper:
    """Load the recognizer that --recognizer names. Raises AsrError."""
    kind, _, folder = name.partition(":")
    if kind == "whisper" and folder:
        return Whisper(Path(folder), threads)
    return Ours(RELEASED if name == "released" else Path(name), threads)


def label_recordings(paths: Sequence[Path], recognizer: str, table: Path, threads: int) -> None:
    """Append the labels that the table lacks; prints the recordings that cannot be read.

    Raises:
        AsrError: If the recognizer cannot be loaded, or the table is of another form.
        FileError: If the disk refuses.
    """
    cut_unfinished_line(table)
    done = read_table(table) if table.is_file() else {}
    missing = [path for path in paths if path.name not in done]
    if not missing:
        return
    loaded = load_recognizer(recognizer, threads)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(table, "a", encoding="utf-8") as file,
            Bar("labeling", len(paths), "recordings", len(paths) - len(missing)) as bar,
        ):
            for index, label in loaded.label(missing):
                if isinstance(label, AsrError):
                    complain(f"label.py: {missing[index]} is left out: {label}")
                else:
                    numbers = (f"{number:.3f}" for number in label[3:])
                    row = [label.file, f"{label.seconds:.3f}", label.text, *numbers]
                    file.write("\t".join(row) + "\n")
                    file.flush()
                bar.advance()
    except OSError as error:
        raise FileError(
            f"{table} cannot be written ({error.strerror}); free some space or name another --output"
        ) from error


def cut_unfinished_line(table: Path) -> None:
    """Remove the part of a line that a killed run has left at the end of the table."""
    if table.is_file():
        content = table.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(table, len(whole))


def compression(text: str) -> float:
    """How many times shorter zlib makes a text; a text that repeats itself has a high ratio."""
    encoded = text.encode()
    return len(encoded) / max(1, len(zlib.compress(encoded)))


if __name__ == "__main__":
    sys.exit(main())
