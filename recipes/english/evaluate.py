"""How good a checkpoint is: errors on several sets, confidence of its words, false alarms.

    python recipes/english/evaluate.py                  # the dev sets that prepare.py wrote
    python recipes/english/evaluate.py --curve runs/first runs/second   # of one training
    python recipes/english/evaluate.py --manifest tests=tests.jsonl --manifest mine=mine.jsonl

**Errors.** The network listens to each recording once, and what it heard is decoded twice: greedy,
and with beam search and the language model. The beam's numbers are the checkpoint's own (`asr tune`).
Each WER has its 95 % interval: that of a bootstrap over the utterances, which knows nothing of how
few speakers a set may have.

**Confidence** of the beam's words, all sets together. The speakers are shared out into two halves; the
logistic that makes confidences of posteriors is fitted on either one and judged on the other: by
the expected calibration error, and the area under the ROC curve. An utterance without a speaker is a
speaker of its own. What is fitted on both halves is what belongs into the model.

**False alarms**: words a minute in recordings without speech, heard as `asr transcribe` hears them.

**The curve** (`--curve`): errors on dev over the time of training and over the audio heard, of runs
that go on from one another.

The results' file (JSON; scripts/results.py makes tables of it; rates are fractions):

- `checkpoint`, `profile`, `decoder`: what was measured, and the beam's numbers
- `sets`, by name: `manifest`, `utterances`, `unread`, `hours`, `speakers`, and for `greedy` and `beam`
  `wer`, `low`, `high`, `cer`, and the counts `words`, `substitutions`, `insertions`, `deletions`
- `confidence` (null: nothing to fit): `words`, `right`, `calibration_error`, `auroc`, each on speakers
  who were not fitted on; the same of both `halves`, of `sets` by name, and with the checkpoint's
  `own` numbers; `slope` and `offset` fitted on all; `bins` of the picture
- `false_alarms` (null: not asked for): `minutes`, and `words_per_minute` by sound and decoder
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

from asr.checkpoint import load_decoder_config
from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import (
    auroc,
    calibrate,
    calibration_error,
    fit_confidence,
    judge,
    reliability,
)
from asr.decoder.config import Decoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import AsrError
from asr.files import write_atomically
from asr.measuring import (
    add_sets,
    amount,
    decode,
    finish,
    hear,
    list_failures,
    load,
    make_parser,
    read_sets,
    write_document,
)
from asr.progress import say, track
from asr.recognizer import Recognizer
from asr.scoring import Report, score

MOST_ERROR = 0.05  # expected calibration error
LEAST_AUROC = 0.75
MOST_ALARMS = 1.0  # words a minute

Rates = dict[str, Any]
"""wer, low, high and cer as fractions; words and their errors as counts."""


@dataclass(frozen=True)
class Judged:
    """A word of the beam: whose it is, how sure the beam was (its posterior), and if it is right."""

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
        help="language model (the checkpoint's; language-model-small.lm in --data, if it is there)",
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="FOLDER",
        help="recordings without speech, each by itself, or each folder in it (noise in --data)",
    )
    parser.add_argument(
        "--minutes",
        type=amount,
        default=10.0,
        metavar="M",
        help="of each recording without speech; 0: none (10)",
    )
    parser.add_argument(
        "--curve", type=Path, nargs="+", default=[], metavar="RUN", help="folders, the first first"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="(as --output, .png)")
    return parser.parse_args(arguments)


def evaluate(options: argparse.Namespace) -> int:
    """Print the tables, write the file and the picture; the exit code."""
    manifests, sets = read_sets(options)
    epochs = read_runs(options.curve) if options.curve else []
    noise = options.noise or options.data / "noise"
    noises = find_noises(noise) if options.minutes and (options.noise or noise.exists()) else {}
    language_model = find_language_model(options)
    if language_model is None:
        say("no language model: greedy decoding only (prepare.py --text makes one, --lm names one)")
    recognizer, decoders, config = load(options.checkpoint, options, language_model)
    beam = recognizer.decoder if isinstance(recognizer.decoder, BeamDecoder) else None
    if beam:  # confidences are fitted to posteriors
        plain = replace(beam.config, confidence_slope=1.0, confidence_offset=0.0)
        decoders["beam"] = beam.configured(plain)

    results: dict[str, Any] = {}
    failures: list[str] = []
    words: list[Judged] = []
    say(f"{'set':<16}{'utterances':>10}{'words':>9}{heading(decoders)}")
    for name, utterances in sets.items():
        heard = hear(recognizer, utterances, f"listening to {name}")
        unread = {id: error for id, error in heard.items() if isinstance(error, AsrError)}
        failures += [f"{name}, {id}: {error}" for id, error in unread.items()]
        references = {utterance.id: utterance.text for utterance in utterances}
        rates_found = {}
        for kind, decoder in decoders.items():
            found = decode(recognizer, decoder, heard, options.threads)
            texts = {id: hypothesis.text for id, hypothesis in found.items()}
            report = score(references, texts, options.profile)
            rates_found[kind] = rates(report)
            if kind == "beam":
                speakers = {u.id: u.speaker for u in utterances}
                words += judge_all(name, found, report, speakers)
        results[name] = {
            "manifest": str(manifests[name]),
            "utterances": len(utterances),
            "unread": len(unread),
            "hours": sum(utterance.seconds for utterance in utterances) / 3600,
            "speakers": len({u.speaker or u.id for u in utterances}),
            **rates_found,
        }
        count = rates_found["greedy"]["words"]
        say(f"{name:<16}{len(utterances):>10,}{count:>9,}{row(rates_found.values())}")

    own = (beam.config.confidence_slope, beam.config.confidence_offset) if beam else None
    confidence = measure_confidence(words, own) if own else None
    if confidence:
        say_confidence(confidence)
    alarms = None
    if options.minutes:
        alarms = measure_alarms(recognizer, decoders, noises, options.minutes)
    write_document(
        options.output,
        {
            "checkpoint": options.checkpoint,
            "profile": options.profile,
            "decoder": asdict(config),
            "sets": results,
            "confidence": confidence,
            "false_alarms": alarms,
            "training": [asdict(epoch) for epoch in epochs],
        },
    )
    picture = options.picture or options.output.with_suffix(".png")
    if confidence or epochs:
        draw_picture(confidence, epochs, picture)
        say(f"\nFigures: {options.output}; picture: {picture}")
    else:
        say(f"\nFigures: {options.output}")
    return list_failures(failures)


def find_language_model(options: argparse.Namespace) -> str | None:
    """The one that is named, else the checkpoint's own, else the recipe's; None without any."""
    if options.lm:
        return str(options.lm)
    if own := load_decoder_config(options.checkpoint).language_model:
        return own
    small = options.data / "language-model-small.lm"
    return str(small) if small.exists() else None


# Errors


def rates(report: Report) -> Rates:
    """The rates of a report, the WER with its interval, and the counts."""
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
    """The columns of the decoders' rates."""
    labels = {"greedy": "WER greedy, %", "beam": "WER beam + LM, %"}
    return "".join(f"{labels[kind]:>24}" for kind in decoders)


def row(found: Iterable[Rates]) -> str:
    """A set's rates in those columns."""
    percents = [[100 * each[key] for key in ("wer", "low", "high")] for each in found]
    return "".join(f"{f'{wer:.2f} [{low:.2f}, {high:.2f}]':>24}" for wer, low, high in percents)


# Confidence


def judge_all(
    name: str,
    found: Mapping[str, Hypothesis],
    report: Report,
    speakers: Mapping[str, str | None],
) -> list[Judged]:
    """The words of a set's hypotheses."""
    words = []
    for utterance in report.utterances:
        # An utterance without a speaker is one of its own, whose name no speaker can have.
        speaker = speakers[utterance.id] or f"\n{utterance.id}"
        words += [
            Judged(name, speaker, posterior, right)
            for posterior, right in judge(found[utterance.id], utterance)
        ]
    return words


def share_out(words: Sequence[Judged]) -> list[bool]:
    """For each word whether its speaker belongs to the first half.

    In each set, from the speaker of the most words to that of the fewest, each goes to the half that
    has fewer words of the set so far.
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
    """How good the confidence of words is, fitted on one half of the speakers, judged on the other.

    `own` are the slope and the offset that the checkpoint has. None where there is nothing to fit: a
    half has no words, or all of them are right, or all wrong.
    """
    posteriors = np.array([word.posterior for word in words])
    right = np.array([word.right for word in words], bool)
    first = np.array(share_out(words), bool)
    fits = [fit_confidence(posteriors[half], right[half]) for half in (first, ~first)]
    both = fit_confidence(posteriors, right)
    if fits[0] is None or fits[1] is None or both is None:
        return None
    confidences = np.empty(len(words))
    for half, fit in ((~first, fits[0]), (first, fits[1])):
        confidences[half] = calibrate(posteriors[half], *fit)

    def figures(some: Any, of: Any = confidences) -> dict[str, Any]:
        area = auroc(of[some], right[some])
        return {
            "words": int(some.sum()),
            "right": int(right[some].sum()),
            "calibration_error": calibration_error(of[some], right[some]),
            "auroc": None if np.isnan(area) else area,
        }

    everything = np.ones(len(words), bool)
    names = np.array([word.set for word in words])
    ours = [
        (half, fit, len({(w.set, w.speaker) for w, here in zip(words, half, strict=True) if here}))
        for half, fit in ((first, fits[1]), (~first, fits[0]))
    ]
    return {
        **figures(everything),
        "slope": both[0],
        "offset": both[1],
        "halves": [
            {"speakers": speakers, **figures(half), "slope": fit[0], "offset": fit[1]}
            for half, fit, speakers in ours
        ],
        "sets": {name: figures(names == name) for name in dict.fromkeys(names.tolist())},
        "own": {
            "slope": own[0],
            "offset": own[1],
            **figures(everything, calibrate(posteriors, *own)),
        },
        "bins": [
            {"confidence": mean, "right": share, "words": count}
            for mean, share, count in reliability(confidences, right)
        ],
    }


def say_confidence(found: Mapping[str, Any]) -> None:
    """The table of the confidence, and what belongs into the model."""
    say(f"\n{'confidence':<28}{'words':>9}{'right, %':>10}{'cal. error':>12}{'AUROC':>8}")
    rows = {"all": found, **found["sets"]}
    rows |= {f"half {place}": half for place, half in enumerate(found["halves"], start=1)}
    own = found["own"]
    rows[f"all, as it is ({own['slope']:g}, {own['offset']:g})"] = own
    for name, figures in rows.items():
        area = "" if figures["auroc"] is None else f"{figures['auroc']:.3f}"
        share = 100 * figures["right"] / figures["words"]
        say(
            f"{name:<28}{figures['words']:>9,}{share:>10.1f}"
            f"{figures['calibration_error']:>12.3f}{area:>8}"
        )
    say(
        f"Fitted on all: slope {found['slope']:g}, offset {found['offset']:g}. Aims: calibration "
        f"error at most {MOST_ERROR:g}, AUROC at least {LEAST_AUROC:g}."
    )


# False alarms


def measure_alarms(
    recognizer: Recognizer,
    decoders: Mapping[str, Decoder],
    noises: Mapping[str, Sequence[Path]],
    minutes: float,
) -> dict[str, Any]:
    """Words a minute in each sound without speech, by decoder; print a line for each."""
    say(f"\n{'words a minute, no speech':<28}" + "".join(f"{kind:>8}" for kind in decoders))
    sounds: dict[str, dict[str, float]] = {}
    made = make_sounds(noises, 60 * minutes, recognizer.sample_rate)
    for name, recording in track(made, "listening to noise", 2 + len(noises), "sounds"):
        [(_, heard)] = recognizer.emissions([recording])
        if isinstance(heard, AsrError):
            raise heard
        found = {
            kind: len(recognizer.decode(heard, decoder).words) / minutes
            for kind, decoder in decoders.items()
        }
        sounds[name] = found
        say(f"{name:<28}" + "".join(f"{rate:>8.1f}" for rate in found.values()))
    say(f"Aim: at most {MOST_ALARMS:g} in each.")
    return {"minutes": minutes, "words_per_minute": sounds}


# Pictures


def draw_picture(confidence: Mapping[str, Any] | None, epochs: Sequence[Epoch], path: Path) -> None:
    """The reliability of the confidence, and the curves of the training."""
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
    """How many words were right against how sure they were, with 95 % intervals of chance."""
    sure = np.array([bin["confidence"] for bin in confidence["bins"]])
    right = np.array([bin["right"] for bin in confidence["bins"]])
    words = np.array([bin["words"] for bin in confidence["bins"]])
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes.errorbar(sure, right, 1.96 * np.sqrt(right * (1 - right) / words), fmt="o-", capsize=3)
    axes.set(
        xlabel="confidence, mean of a tenth of the words",
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
