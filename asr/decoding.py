"""The decoder on the command line: which one is meant, its first use, its tuning."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from asr.checkpoint import load_decoder_config
from asr.data import Utterance
from asr.decode import DecoderConfig
from asr.errors import AsrError
from asr.progress import Bar, track
from asr.recognizer import Recognizer
from asr.text import normalise

WEIGHTS = ("alpha", "beta", "unknown", "prior")
NOTICE_SECONDS = 1.0  # what takes longer is told


def choose_decoder(arguments: argparse.Namespace) -> tuple[DecoderConfig, dict[str, float]]:
    """The decoder that the options describe, and the hotwords of `--hotword` with their weights.

    What they leave open is as the checkpoint's tuning left it; a released model decodes with its own
    language model where they name none. Raises AsrError where an option
    would not act.
    """
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
            raise AsrError(f"The greedy decoder knows no {options[0]}; choose --decoder beam.")
        return DecoderConfig(), {}
    own = load_decoder_config(arguments.checkpoint)
    modelled = bool(given.get("language_model") or own.language_model)
    if arguments.decoder is None and not options and not modelled:
        return DecoderConfig(), {}

    guided = modelled or "lexicon" in given
    if "alpha" in given and not modelled:
        raise AsrError("--alpha weighs a language model; name one with --lm.")
    for name in ("beta", "unknown", "prior", "strict"):
        if name in given and not guided:
            raise AsrError(f"--{name} needs to know words; name a model or list: --lm, --lexicon.")
    if "prior" in given and not own.priors:
        raise AsrError(
            "--prior weighs the symbols' shares, which this checkpoint lacks: run asr tune."
        )
    if given.get("strict") and "unknown" in given:
        raise AsrError("--strict allows no unknown words; leave out --unknown.")
    if "hotword_weight" in given and not (arguments.hotwords or arguments.hotword):
        raise AsrError("--hotword-weight weighs hotwords; name some with --hotwords, --hotword.")
    config = replace(own, **{**given, "kind": "beam"})
    hotwords = {normalise(text, "plain"): config.hotword_weight for text in arguments.hotword or []}
    return config, hotwords


def prepare(recognizer: Recognizer) -> None:
    """Have a beam decoder compiled before it is needed, and say so if that takes its time."""
    symbols = len(recognizer.vocabulary)
    nothing = np.full((2, symbols), -np.log(symbols), np.float32)
    decoder = recognizer.decoder

    def use() -> None:
        decoder.decode(nothing)
        decoder.partial(decoder.start())

    thread = Thread(target=use)
    thread.start()
    thread.join(NOTICE_SECONDS)
    if thread.is_alive():
        with Bar("compiling the beam decoder, only this once", None):
            thread.join()


def tune_decoder(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    trials: int,
    threads: int,
    profile: str,
    picture: Path | None,
) -> tuple[DecoderConfig, list[str]]:
    """Tune the recogniser's beam on utterances: the winner, and lines that tell how it was found.

    Raises AsrError where one of the recordings cannot be read.
    """
    from asr.beam import BeamDecoder
    from asr.tuning import Trial, tune

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


def _draw_trials(trials: Sequence[Any], winner: DecoderConfig, path: Path) -> None:
    """All trials: two weights on the axes of each panel, the WER as colour, a cross at the winner."""
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
