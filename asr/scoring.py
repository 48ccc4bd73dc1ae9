"""Word and character error rates of hypotheses against references, paired by utterance id.

The alignment is Levenshtein's, computed by jiwer. A rate is the number of all errors divided by the
number of all reference words or characters; it is not a mean of the utterances' rates.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt

from asr.errors import ScoreError, quote
from asr.text import normalize

FIGURES = """
    profile wer words errors substitutions insertions deletions cer characters character_errors
    sentence_error_rate sentence_errors
""".split()  # of a report, as JSON
COUNTS = "words substitutions insertions deletions characters character_errors".split()
Chunks = list[jiwer.AlignmentChunk]
LINE_WIDTH = 100  # columns of the alignment view
RESAMPLES = 10_000  # bootstrap resamples of a confidence interval


@dataclass(frozen=True, slots=True)
class _Counts:
    words: int
    substitutions: int
    insertions: int
    deletions: int
    characters: int
    character_errors: int

    @property
    def errors(self) -> int:
        """Word errors."""
        return self.substitutions + self.insertions + self.deletions


@dataclass(frozen=True, slots=True)
class UtteranceScore(_Counts):
    """The errors of one utterance.

    Attributes:
        id: The utterance's id.
        reference: The normalized reference.
        hypothesis: The normalized hypothesis.
        alignment: Pairs of a reference word and a hypothesis word, "" for a missing one.
        words: Reference words.
        substitutions: Words replaced by others.
        insertions: Extra words in the hypothesis.
        deletions: Words missing in the hypothesis.
        characters: Reference characters, spaces included.
        character_errors: Edit distance in characters.
    """

    id: str
    reference: str
    hypothesis: str
    alignment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Report(_Counts):
    """The errors of a set of utterances; `score` computes it.

    Rates are fractions and may exceed 1. If there is no reference word at all, because every
    utterance is silent, the rate is the number of inserted words, as in jiwer. Characters are
    counted likewise and include the single spaces between words.

    Attributes:
        profile: The text profile by which both sides were normalized.
        utterances: The utterances' scores, in the order of the references.
        words: Reference words.
        substitutions: Words replaced by others.
        insertions: Extra words in the hypotheses.
        deletions: Words missing in the hypotheses.
        characters: Reference characters.
        character_errors: Sum of the edit distances in characters.

    Example:
        >>> report = score({"a": "one two three"}, {"a": "one too three"})
        >>> f"{report.wer:.3f} {report.confusions()}"
        "0.333 [('two', 'too', 1)]"
    """

    profile: str
    utterances: tuple[UtteranceScore, ...]

    @property
    def wer(self) -> float:
        """Word errors over reference words."""
        return self.errors / max(self.words, 1)

    @property
    def cer(self) -> float:
        """Character errors over reference characters."""
        return self.character_errors / max(self.characters, 1)

    def wer_interval(self) -> tuple[float, float]:
        """Compute the 95 % confidence interval of the WER by a bootstrap over the utterances.

        Bisani and Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance
        evaluation". It ignores speakers: if there are only a few, the WER of others may well lie
        outside. The random numbers are fixed, so repeated calls agree.

        Returns:
            The lower and the upper end, as fractions.
        """
        return _bootstrap([u.errors for u in self.utterances], [u.words for u in self.utterances])

    @property
    def sentence_errors(self) -> int:
        """Utterances with at least one word error."""
        return sum(utterance.errors > 0 for utterance in self.utterances)

    @property
    def sentence_error_rate(self) -> float:
        """Utterances with a word error over all utterances."""
        return self.sentence_errors / len(self.utterances)

    def confusions(self, n: int = 10) -> list[tuple[str, str, int]]:
        """Return the `n` most frequent errors as (reference word, hypothesis word, count).

        The reference of an insertion and the hypothesis of a deletion are "".
        """
        pairs = (pair for utterance in self.utterances for pair in utterance.alignment)
        counts = Counter(pair for pair in pairs if pair[0] != pair[1])
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [(reference, hypothesis, count) for (reference, hypothesis), count in ranked[:n]]

    def worst(self, n: int = 10) -> list[UtteranceScore]:
        """Return the `n` utterances with the most word errors, the shorter of equals first."""
        wrong = [utterance for utterance in self.utterances if utterance.errors]
        return sorted(wrong, key=lambda u: (-u.errors, u.words, u.id))[:n]

    def alignment(self, n: int = 10) -> str:
        """Format the worst `n` utterances, word under word, with errors marked S, I and D."""
        return "\n\n".join(_format_alignment(utterance) for utterance in self.worst(n))

    def summary(self) -> str:
        """Format the rates and their counts as one line."""
        return (
            f"WER {100 * self.wer:.2f} % (S {self.substitutions}, I {self.insertions}, "
            f"D {self.deletions} of {self.words} words), CER {100 * self.cer:.2f} %, "
            f"sentence errors {100 * self.sentence_error_rate:.2f} % "
            f"({self.sentence_errors} of {len(self.utterances)})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: all figures, the 20 most frequent errors, every utterance."""
        keys = ("reference", "hypothesis", "count")
        names = ("id", "reference", "hypothesis", *COUNTS)
        return {
            **{name: getattr(self, name) for name in FIGURES},
            "sentences": len(self.utterances),
            "confusions": [dict(zip(keys, row, strict=True)) for row in self.confusions(20)],
            "utterances": [
                {name: getattr(utterance, name) for name in names} for utterance in self.utterances
            ],
        }


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], profile: str = "plain"
) -> Report:
    """Count the word and character errors of hypotheses.

    Args:
        references: The correct text of each utterance id; it may be empty.
        hypotheses: The recognized text of the same ids, in any order; it may be empty.
        profile: How both sides are normalized first, see `asr.text.normalize`.

    Returns:
        The report, with utterances in the order of the references.

    Raises:
        ScoreError: If an id occurs on one side only, or there is no utterance.
        TextError: If there is no such profile.

    Example:
        >>> score({"a": "Yes, sir!"}, {"a": "yes sir"}, profile="english").wer
        0.0
    """
    _require_same_ids(references, hypotheses)
    if not references:
        raise ScoreError("there is no utterance to score; pass at least one reference")

    expected = [normalize(text, profile) for text in references.values()]
    recognized = [normalize(hypotheses[id], profile) for id in references]
    words = jiwer.process_words(expected, recognized).alignments
    characters = jiwer.process_characters(expected, recognized).alignments
    utterances = tuple(map(_score_utterance, references, expected, recognized, words, characters))
    totals = {name: sum(getattr(utterance, name) for utterance in utterances) for name in COUNTS}
    return Report(profile=profile, utterances=utterances, **totals)


def _require_same_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    if references.keys() == hypotheses.keys():
        return
    sides = {
        "references": references.keys() - hypotheses.keys(),
        "hypotheses": hypotheses.keys() - references.keys(),
    }
    found = [
        f"{len(ids)} only in the {side} ({_list_ids(ids)})" for side, ids in sides.items() if ids
    ]
    raise ScoreError(
        f"references and hypotheses do not cover the same utterances ({' and '.join(found)}); "
        "add a text for each id on both sides, an empty one if nothing was said or recognized"
    )


def compare_wer(report: Report, other: Report) -> tuple[float, float, float]:
    """Compare the WER of two reports on the same utterances by a paired bootstrap.

    Args:
        report: One report.
        other: Another report of the same references, in the same order.

    Returns:
        The first WER minus the second, and the lower and upper end of the difference's 95 %
        confidence interval.

    Raises:
        ScoreError: If the utterances differ.
    """
    pairs = list(zip(report.utterances, other.utterances, strict=False))
    if len(report.utterances) != len(other.utterances) or any(a.id != b.id for a, b in pairs):
        raise ScoreError(
            "the two reports do not cover the same utterances; score the same references"
        )
    low, high = _bootstrap([a.errors - b.errors for a, b in pairs], [a.words for a, _ in pairs])
    return report.wer - other.wer, low, high


def _bootstrap(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    """Bootstrap the 95 % confidence interval of sum(errors) / sum(words) over the utterances."""
    counts: npt.NDArray[np.int64] = np.array([errors, words])
    random = np.random.default_rng(1)
    samples = (random.integers(len(errors), size=len(errors)) for _ in range(RESAMPLES))
    sums = np.array([counts[:, sample].sum(axis=1) for sample in samples])  # (RESAMPLES, 2)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), (0.025, 0.975))
    return float(low), float(high)


def _score_utterance(
    id: str, reference: str, hypothesis: str, word_chunks: Chunks, character_chunks: Chunks
) -> UtteranceScore:
    expected, recognized = reference.split(), hypothesis.split()
    alignment: list[tuple[str, str]] = []
    counts = dict.fromkeys(("equal", "substitute", "insert", "delete"), 0)
    for chunk in word_chunks:
        left = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        right = recognized[chunk.hyp_start_idx : chunk.hyp_end_idx]
        size = _chunk_length(chunk)
        counts[chunk.type] += size
        alignment += zip(left or [""] * size, right or [""] * size, strict=True)
    return UtteranceScore(
        id=id,
        reference=reference,
        hypothesis=hypothesis,
        alignment=tuple(alignment),
        words=len(expected),
        substitutions=counts["substitute"],
        insertions=counts["insert"],
        deletions=counts["delete"],
        characters=len(reference),
        character_errors=sum(_chunk_length(c) for c in character_chunks if c.type != "equal"),
    )


def _chunk_length(chunk: jiwer.AlignmentChunk) -> int:
    """Number of words or characters in a chunk: equal on both sides, or all on one side."""
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def _list_ids(ids: Iterable[str]) -> str:
    ids = sorted(ids)
    return ", ".join(map(quote, ids[:5])) + (", ..." if len(ids) > 5 else "")


def _format_alignment(utterance: UtteranceScore) -> str:
    lines = [
        f"{utterance.id}: S {utterance.substitutions}, I {utterance.insertions}, "
        f"D {utterance.deletions} of {utterance.words} words"
    ]
    rows = ["  REF", "  HYP", "     "]
    for reference, hypothesis in utterance.alignment:
        width = max(len(reference), len(hypothesis))
        if len(rows[0]) + 1 + width > LINE_WIDTH and len(rows[0]) > 5:
            lines += [row.rstrip() for row in rows]
            rows = ["  REF", "  HYP", "     "]
        mark = "I" if not reference else "D" if not hypothesis else "S"
        if reference == hypothesis:
            mark = ""
        cells = (reference or "*" * width, hypothesis or "*" * width, mark)
        rows = [f"{row} {cell:<{width}}" for row, cell in zip(rows, cells, strict=True)]
    return "\n".join([*lines, *(row.rstrip() for row in rows)])
