"""Measure a checkpoint: errors on several sets, confidence of its words, false alarms.

    python recipes/english/evaluate.py                  # the dev sets that prepare.py wrote
    python recipes/english/evaluate.py --curve runs/first runs/second   # also draw the training
    python recipes/english/evaluate.py --manifest tests=tests.jsonl --manifest mine=mine.jsonl

**Errors.** The network runs once on each recording, and its output is decoded twice: greedily, and by
beam search with the language model. The beam's settings are the checkpoint's own (`asr tune`). Each
WER has a 95 % confidence interval from a bootstrap over the utterances, which does not account for
how few speakers a set may have.

**Confidence** of the beam's words, on all sets together. The speakers are divided into two halves; the
logistic function from posteriors to confidences is fitted on each half and evaluated on the other, by
the expected calibration error and the area under the ROC curve. An utterance without a speaker
counts as a speaker of its own. The fit on both halves is the one to put into the model.

**False alarms**: words per minute in recordings without speech, read as `asr transcribe` reads them.

**The curve** (`--curve`): errors on dev over the time of training and over the hours of audio, for
runs of which each starts from the one before it.

The results' file (JSON; scripts/results.py makes tables of it; rates are fractions):

- `checkpoint`, `profile`, `decoder`: what was measured, and the beam's settings
- `sets`, by name: `manifest`, `utterances`, `unread`, `hours`, `speakers`, and for `greedy` and `beam`
  `wer`, `low`, `high`, `cer`, and the counts `words`, `substitutions`, `insertions`, `deletions`
- `confidence` (null: nothing to fit): `words`, `right`, `calibration_error`, `auroc`, each on speakers
  outside of the fit; the same for both `halves`, for `sets` by name, and with the checkpoint's
  `own` settings; `slope` and `offset` fitted on all; `bins` of the picture
- `false_alarms` (null: not measured): `minutes`, and `words_per_minute` by sound and decoder
- `training`: for each epoch of the curve `run`, `epoch`, `hours`, `audio_hours`, `wer`, `cer`
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from alarms import find_noises, make_sounds
from curve import Epoch, draw, read_runs
from measuring import (
    Measured,
    add_sets,
    amount,
    finish,
    list_failures,
    load,
    make_parser,
    measure_set,
    read_sets,
    write_document,
)

from asr.checkpoint import Checkpoint
from asr.data.manifest import Utterance
from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import (
    auroc,
    calibrate,
    calibration_error,
    fit_confidence,
    label_words,
    reliability,
)
from asr.decoder.config import Decoder, DecoderConfig
from asr.errors import AsrError
from asr.files import write_atomically
from asr.progress import say, track
from asr.recognizer import Recognizer
from asr.scoring import Report

# What a good model achieves.
MOST_ERROR = 0.05  # expected calibration error
LEAST_AUROC = 0.75
MOST_ALARMS = 1.0  # words per minute

Rates = dict[str, Any]
"""The fractions wer, low, high and cer; the counts of words and of their errors."""


@dataclass(frozen=True)
class Judged:
    """A word that the beam search found: its speaker, its posterior, and whether it is right."""

    set: str
    speaker: str
    posterior: float
    right: bool


def main(arguments: Sequence[str] | None = None) -> int:
    return finish("evaluate.py", partial(evaluate, parse(arguments)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/english/results.json", profile="plain")
    add_sets(parser)
    parser.add_argument(
        "--lm",
        type=Path,
        metavar="FILE",
        help="language model (the checkpoint's, else language-model-small.lm in --data if it exists)",
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="FOLDER",
        help="recordings without speech; each file or folder in it is one sound (noise in --data)",
    )
    parser.add_argument(
        "--minutes",
        type=amount,
        default=10.0,
        metavar="M",
        help="minutes of each sound without speech; 0: skip them (10)",
    )
    parser.add_argument(
        "--curve",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of runs, the earliest first",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="the picture (as --output, .png)"
    )
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace) -> int:
    """Print the tables, write the file and the picture, and return the exit code."""
    manifests, sets = read_sets(options)
    epochs = read_runs(options.curve) if options.curve else []
    noise = options.noise or options.data / "noise"
    noises = find_noises(noise) if options.minutes and (options.noise or noise.exists()) else {}
    checkpoint = Checkpoint.read(options.checkpoint)
    language_model = find_language_model(options, checkpoint.decoder)
    if language_model is None:
        say("no language model: greedy decoding only (prepare.py --text makes one, --lm names one)")
    loaded = load(checkpoint, options, language_model)
    recognizer, decoders = loaded.recognizer, loaded.decoders
    own = None
    if isinstance(recognizer.decoder, BeamDecoder):  # confidences are fitted to posteriors
        config = recognizer.decoder.config
        own = (config.confidence_slope, config.confidence_offset)
        plain = replace(config, confidence_slope=1.0, confidence_offset=0.0)
        decoders["beam"] = recognizer.decoder.configured(plain)

    results: dict[str, Any] = {}
    failures: list[str] = []
    words: list[Judged] = []
    say(f"{'set':<16}{'utterances':>10}{'words':>9}{heading(decoders)}")
    for name, utterances in sets.items():
        measured = measure_set(recognizer, decoders, utterances, options, f"transcribing {name}")
        failures += [f"{name}, {id}: {error}" for id, error in measured.errors.items()]
        if "beam" in decoders:
            words += judge_all(name, measured, utterances)
        found = {kind: rates(report) for kind, report in measured.reports.items()}
        results[name] = {
            "manifest": str(manifests[name]),
            **describe(utterances, measured),
            **found,
        }
        count = found["greedy"]["words"]
        say(f"{name:<16}{len(utterances):>10,}{count:>9,}{row(found.values())}")

    confidence = measure_confidence(words, own) if own else None
    if confidence:
        say_confidence(confidence)
    alarms = None
    if options.minutes:
        alarms = measure_alarms(recognizer, decoders, noises, options.minutes)
    document = {
        "checkpoint": options.checkpoint,
        "profile": options.profile,
        "decoder": asdict(loaded.config),
        "sets": results,
        "confidence": confidence,
        "false_alarms": alarms,
        "training": [asdict(epoch) for epoch in epochs],
    }
    write_results(document, confidence, epochs, options)
    return list_failures(failures)


def write_results(
    document: Mapping[str, Any],
    confidence: Mapping[str, Any] | None,
    epochs: Sequence[Epoch],
    options: argparse.Namespace,
) -> None:
    """Write the file, and the picture if there is something to draw. Raises FileError."""
    write_document(options.output, document)
    picture = options.picture or options.output.with_suffix(".png")
    if confidence or epochs:
        draw_picture(confidence, epochs, picture)
        say(f"\nFigures: {options.output}; picture: {picture}")
    else:
        say(f"\nFigures: {options.output}")


def find_language_model(options: argparse.Namespace, own: DecoderConfig) -> str | None:
    """Choose the one that is named, else the checkpoint's own, else the recipe's; None without any."""
    if options.lm:
        return str(options.lm)
    if own.language_model:
        return own.language_model
    small = options.data / "language-model-small.lm"
    return str(small) if small.exists() else None


# Errors


def describe(utterances: Sequence[Utterance], measured: Measured) -> dict[str, Any]:
    """Count a set's utterances, hours and speakers."""
    return {
        "utterances": len(utterances),
        "unread": len(measured.errors),
        "hours": sum(utterance.seconds for utterance in utterances) / 3600,
        "speakers": len({u.speaker or u.id for u in utterances}),
    }


def rates(report: Report) -> Rates:
    """The rates of a report, the WER with its interval, and its counts."""
    low, high = report.wer_interval()
    return {
        "wer": report.wer,
        "low": low,
        "high": high,
        "words": report.words,
        "substitutions": report.substitutions,
        "insertions": report.insertions,
        "deletions": report.deletions,
        "cer": report.cer,
    }


def heading(decoders: Iterable[str]) -> str:
    """The titles of the columns with the decoders' rates."""
    labels = {"greedy": "WER greedy, %", "beam": "WER beam + LM, %"}
    return "".join(f"{labels[kind]:>24}" for kind in decoders)


def row(found: Iterable[Rates]) -> str:
    """A set's rates in the columns of `heading`."""
    percents = [[100 * each[key] for key in ("wer", "low", "high")] for each in found]
    return "".join(f"{f'{wer:.2f} [{low:.2f}, {high:.2f}]':>24}" for wer, low, high in percents)


# Confidence


def judge_all(name: str, measured: Measured, utterances: Sequence[Utterance]) -> list[Judged]:
    """The words of the beam's hypotheses on a set, each with whether it is right."""
    speakers = {utterance.id: utterance.speaker for utterance in utterances}
    hypotheses = measured.hypotheses["beam"]
    words = []
    for utterance in measured.reports["beam"].utterances:
        if utterance.id not in hypotheses:  # the recording cannot be read
            continue
        # An utterance without a speaker gets one of its own, with a name that no speaker can have.
        speaker = speakers[utterance.id] or f"\n{utterance.id}"
        words += [
            Judged(name, speaker, posterior, right)
            for posterior, right in label_words(hypotheses[utterance.id], utterance)
        ]
    return words


def halve_speakers(words: Sequence[Judged]) -> list[bool]:
    """Return for each word whether its speaker belongs to the first half.

    In each set, from the speaker with the most words to the one with the fewest, each goes to the
    half that has fewer words of the set so far.
    """
    counts: dict[str, dict[str, int]] = {}
    for word in words:
        speakers = counts.setdefault(word.set, {})
        speakers[word.speaker] = speakers.get(word.speaker, 0) + 1
    first = set()
    for name, speakers in counts.items():
        sizes = [0, 0]
        for speaker in sorted(speakers, key=lambda speaker: (-speakers[speaker], speaker)):
            half = int(sizes[1] < sizes[0])
            sizes[half] += speakers[speaker]
            if half == 0:
                first.add((name, speaker))
    return [(word.set, word.speaker) in first for word in words]


def measure_confidence(words: Sequence[Judged], own: tuple[float, float]) -> dict[str, Any] | None:
    """Measure the confidence of words, fitted on one half of the speakers, evaluated on the other.

    `own` are the checkpoint's slope and offset. None if there is nothing to fit: a half has no words,
    or all of them are right, or all are wrong.
    """
    posteriors = np.array([word.posterior for word in words])
    right = np.array([word.right for word in words], bool)
    first = np.array(halve_speakers(words), bool)
    fits = [fit_confidence(posteriors[half], right[half]) for half in (first, ~first)]
    both = fit_confidence(posteriors, right)
    if fits[0] is None or fits[1] is None or both is None:
        return None
    confidences = np.empty(len(words))
    for half, fit in ((~first, fits[0]), (first, fits[1])):
        confidences[half] = calibrate(posteriors[half], *fit)

    def figures(mask: Any) -> dict[str, Any]:
        return measure_calibration(confidences[mask], right[mask])

    names = np.array([word.set for word in words])
    halves = []
    for half, fit in ((first, fits[1]), (~first, fits[0])):
        speakers = {(w.set, w.speaker) for w, here in zip(words, half, strict=True) if here}
        halves.append(
            {"speakers": len(speakers), **figures(half), "slope": fit[0], "offset": fit[1]}
        )
    return {
        **measure_calibration(confidences, right),
        "slope": both[0],
        "offset": both[1],
        "halves": halves,
        "sets": {name: figures(names == name) for name in dict.fromkeys(names.tolist())},
        "own": {
            "slope": own[0],
            "offset": own[1],
            **measure_calibration(calibrate(posteriors, *own), right),
        },
        "bins": [
            {"confidence": mean, "right": share, "words": count}
            for mean, share, count in reliability(confidences, right)
        ],
    }


def measure_calibration(confidences: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Measure confidences (n,) of words of which some are right (n,)."""
    area = auroc(confidences, right)
    return {
        "words": len(right),
        "right": int(right.sum()),
        "calibration_error": calibration_error(confidences, right),
        "auroc": None if np.isnan(area) else area,
    }


def say_confidence(found: Mapping[str, Any]) -> None:
    """Print the table of the confidence, and the fit to put into the model."""
    say(f"\n{'confidence':<28}{'words':>9}{'right, %':>10}{'cal. error':>12}{'AUROC':>8}")
    rows = {"all": found, **found["sets"]}
    rows |= {f"half {place}": half for place, half in enumerate(found["halves"], start=1)}
    own = found["own"]
    rows[f"all, unchanged ({own['slope']:g}, {own['offset']:g})"] = own
    for name, figures in rows.items():
        area = "" if figures["auroc"] is None else f"{figures['auroc']:.3f}"
        share = 100 * figures["right"] / figures["words"]
        say(
            f"{name:<28}{figures['words']:>9,}{share:>10.1f}"
            f"{figures['calibration_error']:>12.3f}{area:>8}"
        )
    say(
        f"Fitted on all: slope {found['slope']:g}, offset {found['offset']:g}. Goals: calibration "
        f"error at most {MOST_ERROR:g}, AUROC at least {LEAST_AUROC:g}."
    )


# False alarms


def measure_alarms(
    recognizer: Recognizer,
    decoders: Mapping[str, Decoder],
    noises: Mapping[str, Sequence[Path]],
    minutes: float,
) -> dict[str, Any]:
    """Count words per minute in each sound without speech, by decoder; print a line for each."""
    say(f"\n{'words a minute, no speech':<28}" + "".join(f"{kind:>8}" for kind in decoders))
    sounds: dict[str, dict[str, float]] = {}
    made = make_sounds(noises, 60 * minutes, recognizer.sample_rate)
    for name, recording in track(made, "transcribing noise", 2 + len(noises), "sounds"):
        [(_, segments)] = recognizer.emissions([recording])
        if isinstance(segments, AsrError):
            raise segments
        found = {
            kind: len(recognizer.decode(segments, decoder).words) / minutes
            for kind, decoder in decoders.items()
        }
        sounds[name] = found
        say(f"{name:<28}" + "".join(f"{rate:>8.1f}" for rate in found.values()))
    say(f"Goal: at most {MOST_ALARMS:g} in each.")
    return {"minutes": minutes, "words_per_minute": sounds}


# Pictures


def draw_picture(confidence: Mapping[str, Any] | None, epochs: Sequence[Epoch], path: Path) -> None:
    """Draw the reliability of the confidence, and the curves of the training."""
    from matplotlib.figure import Figure

    panels = bool(confidence) + 2 * bool(epochs)
    figure = Figure(figsize=(5.5 * panels, 4.8), layout="constrained")
    [axes] = figure.subplots(1, panels, squeeze=False)
    if confidence:
        draw_reliability(axes[0], confidence)
    if epochs:
        draw(axes[-2:], epochs)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_reliability(axes: Any, confidence: Mapping[str, Any]) -> None:
    """Draw the share of right words against their confidence, with 95 % binomial intervals."""
    mean = np.array([bin["confidence"] for bin in confidence["bins"]])
    right = np.array([bin["right"] for bin in confidence["bins"]])
    words = np.array([bin["words"] for bin in confidence["bins"]])
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes.errorbar(mean, right, 1.96 * np.sqrt(right * (1 - right) / words), fmt="o-", capsize=3)
    axes.set(
        xlabel="mean confidence of a tenth of the words",
        ylabel="share of them that is right",
        title=f"words of unseen speakers: calibration error {confidence['calibration_error']:.3f}, "
        f"AUROC {confidence['auroc']:.3f}",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
