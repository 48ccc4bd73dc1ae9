"""The command `asr info`: describe a checkpoint, a manifest or a recording."""

import argparse
from collections import Counter
from contextlib import ExitStack
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import add_picture_option, add_track_option
from asr.cli.output import check_picture, print_facts, report_failures, save_picture
from asr.errors import AsrError, AudioError
from asr.progress import complain, say
from asr.release import RELEASED, read_card

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument(
        "path",
        type=Path,
        nargs="?",
        default=RELEASED,
        metavar="CHECKPOINT|MANIFEST|AUDIO",
        help="what to describe (default: the English model that comes with asr)",
    )
    add_track_option(command, "describe")
    add_picture_option(
        command,
        "draw a recording's waveform and spectrogram, or a histogram of a manifest's durations",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    path, picture, track = arguments.path, arguments.picture, arguments.track
    check_picture(picture)
    kind = _find_kind(path)
    if track and kind in ("checkpoint", "manifest"):
        raise AsrError(f"--track works for recordings only; omit it for the {kind} {path}")
    if kind == "checkpoint":
        _describe_checkpoint(path, picture)
    elif kind == "manifest":
        _describe_manifest(path, picture)
    else:
        return _describe_recording(path, picture, kind, track)
    return 0


def _find_kind(path: Path) -> str:
    """The kind of a file by its ending if that is known, otherwise by its first bytes."""
    from asr.audio.waveform import EXTENSIONS

    try:
        with path.open("rb") as file:
            head = file.read(512)
    except IsADirectoryError:
        return "checkpoint"  # a released model; `Checkpoint.read` reports any other folder
    except OSError as error:
        raise AsrError(f"{path} cannot be read ({error.strerror}); check the path") from error
    ending = path.suffix.lower()
    if ending in EXTENSIONS:
        return "recording"
    if ending in (".pt", ".pth") or head.startswith(b"PK\x03\x04"):  # torch.save writes zip files
        return "checkpoint"
    if ending == ".jsonl" or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "manifest"
    return "unknown"


def _describe_checkpoint(path: Path, picture: Path | None) -> None:
    from asr.checkpoint import Checkpoint

    if picture:
        raise AsrError(
            f"--picture works for manifests and recordings only; omit it for the checkpoint {path}"
        )
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
    percentiles = zip(marks, np.percentile(seconds, marks).tolist(), strict=True)
    print_facts(
        {
            "utterances": len(utterances),
            "hours": round(seconds.sum() / 3600, 3),
            "speakers": len(speakers) or "not stated",
            "seconds": {f"{mark} %": round(value, 2) for mark, value in percentiles},
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


def _describe_recording(path: Path, picture: Path | None, kind: str, track: int | None) -> int:
    """Describe a recording and return the exit code.

    Raises AsrError for a file of unknown kind that is not one.
    """
    import numpy as np

    from asr.audio.containers import Track, open_recording
    from asr.audio.recording import describe_gaps
    from asr.audio.waveform import Condition, read_blocks

    conditions: list[Condition] = []
    with ExitStack() as stack:
        try:
            recording = stack.enter_context(open_recording(Track(path, track) if track else path))
        except AudioError as error:
            if kind == "recording" or track:
                raise
            raise AsrError(
                f"{path} is not a checkpoint, a manifest (JSONL) or a recording; specify one"
            ) from error
        rate = recording.sample_rate
        waveform = np.concatenate(
            list(read_blocks(recording, rate, on_end=conditions.append, keep_damaged=True))
        )
    print_facts(
        {
            "format": f"{recording.format}, {recording.subtype}",
            "sample rate": f"{rate:,} Hz",
            "channels": recording.channels,
            "seconds": round(conditions[0].seconds, 3),
            "peak": _to_decibels(float(np.abs(waveform).max())),
            "level": f"{_to_decibels(float(np.sqrt(np.square(waveform, dtype=float).mean())))} (RMS)",
        }
    )
    for warning in conditions[0].warnings:
        complain(f"asr: {warning}.")
    if picture:
        _draw_recording(waveform, rate, path.name, picture)
    if gaps := conditions[0].gaps:
        return report_failures([f"{describe_gaps(str(path), gaps)}."], 1)
    return 0


def _to_decibels(amplitude: float) -> str:
    return f"{20 * log10(amplitude):.1f} dBFS" if amplitude else "silence"


def _plain(name: str) -> str:
    """Escape the characters of a file name that the plot's font lacks."""
    return name.encode("latin-1", "backslashreplace").decode("latin-1")


def _draw_recording(
    waveform: "npt.NDArray[np.float32]", sample_rate: int, title: str, picture: Path
) -> None:
    """Draw the waveform (N,) above its mel spectrogram."""
    import librosa
    import librosa.display
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    librosa.display.waveshow(waveform, sr=sample_rate, ax=above)
    above.set(xlabel="", ylabel="amplitude")
    above.set_title(_plain(title), parse_math=False)
    hop = max(sample_rate // 100, len(waveform) // 4000)  # no more columns than can be seen
    window = 1 << (sample_rate // 40).bit_length()
    sizes: dict[str, Any] = {"sr": sample_rate, "n_fft": window, "hop_length": hop}
    padded = np.pad(waveform, (0, max(0, window - len(waveform))))
    power = librosa.feature.melspectrogram(y=padded, n_mels=80, **sizes)  # (mels, columns)
    decibels = librosa.power_to_db(power, ref=np.max)
    image = librosa.display.specshow(decibels, x_axis="time", y_axis="mel", ax=below, **sizes)
    figure.colorbar(image, ax=below, format="%+.0f dB")
    save_picture(figure, picture)
