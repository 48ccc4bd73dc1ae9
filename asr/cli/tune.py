"""The command `asr tune`: find the beam decoder's weights on a dev set."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli import options
from asr.cli.output import check_picture
from asr.defaults import MOST_TRIALS
from asr.errors import AsrError
from asr.files import check_writable, save_figure
from asr.progress import Bar, say

if TYPE_CHECKING:
    from asr.data.manifest import Utterance
    from asr.decoder.config import DecoderConfig
    from asr.decoder.tuning import Trial, Tuning
    from asr.recognizer import Recognizer


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("manifest", metavar="MANIFEST", help="a dev set (JSONL), not a test set")
    options.add_model_options(command)
    options.add_decoder_options(command, for_tuning=True)
    options.add_profile_option(command)
    options.add_count_option(
        command,
        "--trials",
        "number of settings to try (default: 100)",
        default=100,
        type=options.at_most(MOST_TRIALS),
    )
    options.add_output_option(
        command,
        "CHECKPOINT",
        "save a copy of the checkpoint with the weights in this file (default: change the checkpoint "
        "itself); required for a released model, which is never changed",
    )
    options.add_picture_option(command, "draw the trials' word error rates")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.checkpoint import Checkpoint
    from asr.data.manifest import read_manifest

    check_picture(arguments.picture)
    output = arguments.output or Path(arguments.checkpoint)
    if output.is_dir():
        raise AsrError(
            f"{output} is a folder, and a released model is not changed; specify a file for the tuned "
            "copy with --output"
        )
    check_writable(output)
    utterances = read_manifest(arguments.manifest)
    checkpoint = Checkpoint.read(arguments.checkpoint)
    config, hotwords = options.choose_decoder(arguments, checkpoint)
    if config.kind != "beam":
        raise AsrError("only the beam decoder has weights to tune; add a model with --lm")
    recognizer = options.load_recognizer(arguments, checkpoint, config, hotwords)
    options.prepare(recognizer)
    tuning = _tune(recognizer, utterances, arguments)
    checkpoint.write(output, decoder=tuning.config)
    if arguments.picture:
        _draw_trials(tuning, arguments.picture)
    first, best = tuning.trials[0], tuning.config
    say(f"Lowest WER (%) of the trials, by weights:\n\n{tuning.surface()}\n")
    say(f"before:  {_list_weights(first)}: WER {100 * first.wer:.2f} %")
    say(f"winner:  {_list_weights(best)}: {tuning.report.summary()}")
    say(f"confidence: slope {best.confidence_slope:g}, offset {best.confidence_offset:g}")
    use = f"asr transcribe --checkpoint {output}"
    use += f" --lm {config.language_model}" if config.language_model else ""
    use += f" --lexicon {config.lexicon}" if config.lexicon else ""
    say(f"saved in {output}: {use} uses these weights")
    if arguments.picture:
        say(f"picture: {arguments.picture}")
    return 0


def _tune(
    recognizer: "Recognizer", utterances: "Sequence[Utterance]", arguments: argparse.Namespace
) -> "Tuning":
    """Tune the recognizer's beam decoder; AsrError if one of the recordings cannot be read."""
    import numpy as np

    from asr.decoder.beam import BeamDecoder
    from asr.decoder.tuning import tune
    from asr.evaluation import compute_emissions
    from asr.runtime.device import count_cores

    assert isinstance(recognizer.decoder, BeamDecoder)
    with Bar("computing log-probabilities", len(utterances), "utterances") as bar:
        found = compute_emissions(recognizer, utterances, on_progress=bar.advance)
        log_probs = {
            utterance.id: np.concatenate([segment.log_probs for segment in segments])  # (T', V)
            for utterance, segments in found
        }
    references = {utterance.id: utterance.text for utterance in utterances}
    trials, profile = arguments.trials, arguments.profile
    threads = arguments.threads or count_cores()
    with Bar("tuning", trials, "trials") as bar:
        lowest = math.inf

        def show(trial: "Trial") -> None:
            nonlocal lowest
            lowest = min(lowest, trial.wer)
            bar.advance(1, f"WER {100 * lowest:.2f} %")

        return tune(
            recognizer.decoder, log_probs, references, trials, threads, profile, on_trial=show
        )


def _list_weights(source: "Trial | DecoderConfig") -> str:
    return ", ".join(f"{name} {getattr(source, name):g}" for name in options.WEIGHTS)


def _draw_trials(tuning: "Tuning", path: Path) -> None:
    """Draw all trials: two weights on the axes of each panel, the WER as color, a cross at the
    winner.
    """
    import numpy as np
    from matplotlib.figure import Figure

    trials, winner = tuning.trials, tuning.config
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
    save_figure(path, figure, dpi=110)
