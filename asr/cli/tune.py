"""The decoder on the command line: which one is meant, its first use, its tuning."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    WEIGHTS,
    add_compared_profile_option,
    add_decoder_options,
    add_model_options,
    load_recognizer,
    positive,
)
from asr.cli.output import check_picture
from asr.errors import AsrError
from asr.progress import Bar, say, track

if TYPE_CHECKING:
    from asr.data.manifest import Utterance
    from asr.decoder.config import DecoderConfig
    from asr.recognizer import Recognizer


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("manifest", metavar="MANIFEST", help="a dev set (JSONL), not a test set")
    add_model_options(command)
    add_decoder_options(command)
    add_compared_profile_option(command)
    command.add_argument("--trials", type=positive, default=100, metavar="N", help="(default: 100)")
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


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import save_decoder_config
    from asr.cli.options import choose_decoder, prepare
    from asr.data.manifest import read_manifest
    from asr.files import check_writable
    from asr.runtime.device import count_cores

    check_picture(arguments.picture)
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
    recognizer = load_recognizer(arguments, config, hotwords)
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


def tune_decoder(
    recognizer: "Recognizer",
    utterances: "Sequence[Utterance]",
    trials: int,
    threads: int,
    profile: str,
    picture: Path | None,
) -> "tuple[DecoderConfig, list[str]]":
    """Tune the recognizer's beam on utterances: the winner, and lines that tell how it was found.

    Raises AsrError where one of the recordings cannot be read.
    """
    import numpy as np

    from asr.decoder.beam import BeamDecoder
    from asr.decoder.tuning import Trial, tune

    decoder = recognizer.decoder
    assert isinstance(decoder, BeamDecoder)
    ordered = sorted(utterances, key=lambda utterance: -utterance.seconds)
    log_probs = {}
    emissions = recognizer.emissions((u.audio, u.seconds) for u in ordered)
    for index, emission in track(emissions, "listening", len(ordered), "utterances"):
        if isinstance(emission, AsrError):
            raise emission
        log_probs[ordered[index].id] = np.concatenate([segment.log_probs for segment in emission])
    references = {utterance.id: utterance.text for utterance in utterances}
    with Bar("tuning", trials, "trials") as bar:
        lowest = np.inf

        def show(trial: Trial) -> None:
            nonlocal lowest
            lowest = min(lowest, trial.wer)
            bar.advance(1, f"WER {100 * lowest:.2f} %")

        tuning = tune(decoder, log_probs, references, trials, threads, profile, each=show)
    if picture:
        _draw_trials(tuning.trials, tuning.config, picture)
    first, best = tuning.trials[0], tuning.config
    lines = [
        "Lowest WER (%) of the trials, by weights:",
        "",
        tuning.surface(),
        "",
        f"before:  {_weights(first)}: WER {100 * first.wer:.2f} %",
        f"winner:  {_weights(best)}: {tuning.report.summary()}",
        f"confidence: slope {best.confidence_slope:g}, offset {best.confidence_offset:g}",
    ]
    return best, lines


def _weights(of: Any) -> str:
    return ", ".join(f"{name} {getattr(of, name):g}" for name in WEIGHTS)


def _draw_trials(trials: Sequence[Any], winner: "DecoderConfig", path: Path) -> None:
    """All trials: two weights on the axes of each panel, the WER as color, a cross at the winner."""
    import numpy as np
    from matplotlib.figure import Figure

    from asr.files import write_atomically

    wers = 100 * np.array([trial.wer for trial in trials])
    order = np.argsort(-wers)  # the best on top
    figure = Figure(figsize=(16, 4), layout="constrained")
    panels = figure.subplots(1, 4)
    pairs = (("alpha", "beta"), ("alpha", "unknown"), ("beta", "unknown"), ("alpha", "prior"))
    for axes, (across, up) in zip(panels, pairs, strict=True):
        x = np.array([getattr(trial, across) for trial in trials])
        y = np.array([getattr(trial, up) for trial in trials])
        dots = axes.scatter(x[order], y[order], c=wers[order], cmap="viridis_r", s=40)
        axes.plot(getattr(winner, across), getattr(winner, up), "r+", markersize=14)
        axes.set(xlabel=across, ylabel=up)
    figure.colorbar(dots, ax=panels, label="WER, %")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
