"""Where the errors of a checkpoint come from: which sets, words, lengths, levels and speakers.

    python recipes/english/causes.py --checkpoint asr/models/english
    python recipes/english/causes.py --manifest dev=dev.jsonl --gain -20 -30

The network runs once on each recording, and its output is decoded greedily and by beam search with the
language model. The tables show, for each set:

- word error rates, greedy and with beam search; the oracle, which picks the best of the --nbest
  hypotheses; the perplexity of the language model, the share of words that it does not know, and the
  error rates of known and of unknown words (deleted or replaced; insertions belong to no word);
- the beam's word error rates by the length and by the level of the recordings, and those of the
  quarter of the speakers with the fewest and with the most errors;
- the beam's word error rates of the same recordings at other levels (--gain).

The file holds the same as JSON; rates are fractions.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import Loaded, add_sets, finish, load, make_parser, read_sets, write_document

from asr.audio.waveform import load_audio
from asr.checkpoint import Checkpoint
from asr.data.manifest import Utterance
from asr.decoder.beam import BeamDecoder
from asr.decoder.config import Decoder
from asr.decoder.hypothesis import Hypothesis
from asr.errors import DataError
from asr.evaluation import decode_emissions, sort_longest_first
from asr.lm.model import LanguageModel
from asr.progress import Bar, say
from asr.recognizer import Recognizer
from asr.scoring import Report, score
from asr.stream import Segment

Waveforms = dict[str, npt.NDArray[np.float32]]  # (N,) by utterance id
SECONDS = (3.0, 6.0, 12.0)  # limits between the classes of length
LEVELS_DB = (-40.0, -30.0, -20.0)  # limits between the classes of level (RMS, dB of full scale)
QUARTER = 4
LEAST_WORDS = 20  # of a speaker whose error rate counts


def main(arguments: Sequence[str] | None = None) -> int:
    return finish("causes.py", partial(analyze, parse(arguments)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, "runs/english/causes.json", profile="english")
    add_sets(parser)
    parser.add_argument(
        "--lm", type=Path, metavar="FILE", help="language model (the checkpoint's own)"
    )
    parser.add_argument(
        "--nbest", type=int, default=200, metavar="N", help="hypotheses of the oracle (%(default)s)"
    )
    parser.add_argument(
        "--gain",
        type=float,
        nargs="+",
        default=[],
        metavar="DB",
        help="other levels at which the recordings are measured, relative to theirs in dB",
    )
    return parser.parse_args(arguments)


def analyze(options: argparse.Namespace) -> int:
    """Print the tables, write the file, and return the exit code. Raises AsrError."""
    _, sets = read_sets(options)
    checkpoint = Checkpoint.read(options.checkpoint)
    path = options.lm or checkpoint.decoder.language_model
    if not path:
        raise DataError(
            f"{options.checkpoint} has no language model of its own; name one with --lm"
        )
    loaded = load(checkpoint, options, path)
    language_model = LanguageModel.read(path)
    document = {
        name: analyze_set(name, utterances, loaded, language_model, options)
        for name, utterances in sets.items()
    }
    for line in table(document):
        say(line)
    write_document(options.output, {"checkpoint": options.checkpoint, "sets": document})
    return 0


def analyze_set(
    name: str,
    utterances: Sequence[Utterance],
    loaded: Loaded,
    language_model: LanguageModel,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Everything that is known about the errors on one set."""
    recognizer, beam = loaded.recognizer, loaded.decoders["beam"]
    assert isinstance(beam, BeamDecoder)
    waveforms = {u.id: load_audio(u.audio, recognizer.sample_rate) for u in utterances}
    emissions = compute(recognizer, utterances, waveforms, 0.0, f"transcribing {name}")
    decode = partial(decode_emissions, recognizer, emissions, threads=options.threads)
    several: Decoder = beam.configured(replace(beam.config, nbest=options.nbest))
    hypotheses = decode(several)
    report = judge(utterances, hypotheses, options.profile)
    found = {
        "utterances": len(utterances),
        "words": report.words,
        "greedy": judge(utterances, decode(loaded.decoders["greedy"]), options.profile).wer,
        "beam": report.wer,
        "substitutions": report.substitutions,
        "insertions": report.insertions,
        "deletions": report.deletions,
        "oracle": oracle(report, hypotheses, options.profile),
        **judge_words(report, language_model),
        "length": by_class(report, {u.id: u.seconds for u in utterances}, SECONDS),
        "level": by_class(report, {id: level(w) for id, w in waveforms.items()}, LEVELS_DB),
        "speakers": by_speaker(report, utterances),
        "gain": {},
    }
    for gain in options.gain:
        label = f"transcribing {name} at {gain:+g} dB"
        emissions = compute(recognizer, utterances, waveforms, gain, label)
        texts = decode_emissions(recognizer, emissions, beam, options.threads)
        found["gain"][f"{gain:+g}"] = judge(utterances, texts, options.profile).wer
    return found


def compute(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    waveforms: Waveforms,
    gain_db: float,
    label: str,
) -> dict[str, list[Segment]]:
    """The network's output for each recording at another level. Raises AsrError."""
    ordered = sort_longest_first(utterances)
    factor = np.float32(10 ** (gain_db / 20))
    emissions = {}
    with Bar(label, len(ordered), "utterances") as bar:
        for index, found in recognizer.emissions(waveforms[u.id] * factor for u in ordered):
            if not isinstance(found, list):
                raise found
            emissions[ordered[index].id] = found
            bar.advance()
    return emissions


def judge(
    utterances: Iterable[Utterance], hypotheses: Mapping[str, Hypothesis], profile: str
) -> Report:
    """The errors of the best hypotheses."""
    texts = {name: hypothesis.text for name, hypothesis in hypotheses.items()}
    return score({utterance.id: utterance.text for utterance in utterances}, texts, profile)


def oracle(report: Report, hypotheses: Mapping[str, Hypothesis], profile: str) -> float:
    """The word error rate of whoever picks the best of each utterance's alternatives."""
    references, texts = {}, {}
    for scored in report.utterances:
        best = hypotheses[scored.id]
        for number, text in enumerate({best.text, *(other.text for other in best.alternatives)}):
            references[f"{number} {scored.id}"] = scored.reference
            texts[f"{number} {scored.id}"] = text
    errors: dict[str, int] = {}
    for scored in score(references, texts, profile).utterances:
        id = scored.id.partition(" ")[2]
        errors[id] = min(errors.get(id, scored.errors), scored.errors)
    return sum(errors.values()) / max(1, report.words)


def judge_words(report: Report, language_model: LanguageModel) -> dict[str, float]:
    """Perplexity, the share of unknown words, and the error rates of known and unknown words."""
    wrong = {True: 0, False: 0}
    words = {True: 0, False: 0}
    for scored in report.utterances:
        for reference, hypothesis in scored.alignment:
            if reference:
                known = language_model.word_id(reference) != 0
                words[known] += 1
                wrong[known] += reference != hypothesis
    measured = language_model.perplexity([scored.reference for scored in report.utterances])
    return {
        "perplexity": measured.perplexity,
        "unknown": words[False] / max(1, report.words),
        "wrong_known": wrong[True] / max(1, words[True]),
        "wrong_unknown": wrong[False] / max(1, words[False]),
    }


def by_class(
    report: Report, values: Mapping[str, float], limits: Sequence[float]
) -> dict[str, dict[str, float]]:
    """The words and the word error rate of each class of utterances between two limits."""
    classes: dict[str, dict[str, float]] = {}
    names = [f"< {limits[0]:g}", *(f"< {limit:g}" for limit in limits[1:]), f">= {limits[-1]:g}"]
    chosen = {name: int(np.searchsorted(limits, value, "right")) for name, value in values.items()}
    for number, name in enumerate(names):
        scored = [u for u in report.utterances if chosen[u.id] == number]
        words = sum(u.words for u in scored)
        if words:
            classes[name] = {"words": words, "wer": sum(u.errors for u in scored) / words}
    return classes


def by_speaker(report: Report, utterances: Iterable[Utterance]) -> dict[str, float]:
    """The mean word error rate of the best and of the worst quarter of the speakers."""
    speakers = {u.id: u.speaker for u in utterances}
    counts: dict[str, tuple[int, int]] = {}
    for scored in report.utterances:
        errors, words = counts.get(speakers[scored.id], (0, 0))
        counts[speakers[scored.id]] = (errors + scored.errors, words + scored.words)
    rates = sorted(errors / words for errors, words in counts.values() if words >= LEAST_WORDS)
    quarter = max(1, len(rates) // QUARTER)
    best, worst = rates[:quarter], rates[-quarter:]
    return {
        "speakers": len(rates),
        "best": sum(best) / max(1, len(best)),
        "worst": sum(worst) / max(1, len(worst)),
    }


def level(waveform: npt.NDArray[np.float32]) -> float:
    """The root mean square of a waveform (N,) in dB of full scale."""
    return float(10 * np.log10(max(np.square(waveform, dtype=np.float64).mean(), 1e-12)))


def table(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of all tables; rates are in percent."""
    columns = ("greedy", "beam", "oracle", "unknown", "wrong_known", "wrong_unknown")
    heading = "".join(f"{column.replace('_', ' '):>15}" for column in columns)
    yield f"{'set':<22}{'words':>7}{'perplexity':>12}{heading}"
    for name, found in sets.items():
        rates = "".join(f"{100 * found[column]:>15.1f}" for column in columns)
        yield f"{name:<22}{found['words']:>7,}{found['perplexity']:>12.1f}{rates}"
    for title, unit in (("length", "s"), ("level", "dB")):
        yield ""
        for name, found in sets.items():
            parts = (
                f"{limit} {unit}: {100 * part['wer']:.1f} ({part['words']:,} words)"
                for limit, part in found[title].items()
            )
            yield f"{name:<22}{title:<9}{'; '.join(parts)}"
    yield ""
    for name, found in sets.items():
        part = found["speakers"]
        yield (
            f"{name:<22}{part['speakers']} speakers, best quarter {100 * part['best']:.1f}, "
            f"worst {100 * part['worst']:.1f}"
        )
        gains = "; ".join(f"{gain} dB: {100 * wer:.1f}" for gain, wer in found["gain"].items())
        if gains:
            yield f"{name:<22}{gains}"


if __name__ == "__main__":
    sys.exit(main())
