"""The command `asr info`: describe a checkpoint, a manifest or a recording."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr.cli.output import check_picture, print_facts, save_picture
from asr.errors import AsrError, AudioError
from asr.progress import say
from asr.release import RELEASED


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "path",
        type=Path,
        nargs="?",
        default=RELEASED,
        metavar="CHECKPOINT|MANIFEST|AUDIO",
        help="(default: the English model that comes with asr)",
    )
    command.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw a recording's waveform and spectrogram, or a manifest's durations",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    path, picture = arguments.path, arguments.picture
    check_picture(picture)
    _KINDS[_find_kind(path)](path, picture)
    return 0


def _plain(name: str) -> str:
    """A file's name in characters that the picture's font has."""
    return name.encode("latin-1", "backslashreplace").decode("latin-1")


def _find_kind(path: Path) -> str:
    """What a file is, by its ending if that is known, else by its first bytes."""
    from asr.audio.waveform import EXTENSIONS, inspect_audio

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
    from asr.checkpoint import Checkpoint
    from asr.release import read_card

    if picture:
        raise AsrError(f"{path} is a checkpoint, of which there is no picture; omit --picture.")
    facts = Checkpoint.read(path).describe()
    if card := read_card(path):
        say(card)
    print_facts(facts)


def _describe_manifest(path: Path, picture: Path | None) -> None:
    import numpy as np

    from asr.data.manifest import read_manifest

    utterances = read_manifest(path)
    seconds = np.array([utterance.seconds for utterance in utterances])
    speakers = {utterance.speaker for utterance in utterances} - {""}
    characters = Counter(character for utterance in utterances for character in utterance.text)
    marks = (0, 5, 25, 50, 75, 95, 100)
    percentiles = np.percentile(seconds, marks)
    print_facts(
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
        save_picture(figure, picture)


def _describe_recording(path: Path, picture: Path | None) -> None:
    import numpy as np

    from asr.audio.waveform import inspect_audio, load_audio

    info = inspect_audio(path)
    waveform = load_audio(path, info.sample_rate)  # (N,)
    print_facts(
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
    save_picture(figure, picture)
