"""Tuning of the beam decoder, on log-probs whose best weights are known by construction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.decoder.beam import BeamDecoder
from asr.decoder.confidence import (
    auroc,
    calibrate,
    calibration_error,
    fit_confidence,
    label_words,
    reliability,
)
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis, Word
from asr.decoder.tuning import Trial, tune
from asr.errors import ConfigError, DataError
from asr.lm.model import LanguageModel
from asr.scoring import score
from asr.text import Vocabulary

ARPA = """\\data\\
ngram 1=7
ngram 2=4

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.7\tsee\t-0.3
-0.7\tsea\t-0.3
-0.7\tthe\t-0.3
-0.9\ti\t-0.3

\\2-grams:
-0.1\t<s> i
-0.1\ti see
-0.1\tsee the
-0.1\tthe sea

\\end\\
"""
TEXT = "i see the sea"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path: Path = tmp_path_factory.mktemp("lm") / "tiny.arpa"
    path.write_text(ARPA)
    return LanguageModel.read(path)


def spoken(text: str, confusions: dict[str, str], doubt: float) -> np.ndarray:
    """Log-probs (2 U, V): each character, then a blank; confused characters share its mass."""
    vocabulary = Vocabulary.english()
    probs = np.full((2 * len(text), len(vocabulary)), 1e-4)
    for place, character in enumerate(text):
        probs[2 * place, vocabulary.encode(character, "") if character != " " else [1]] = 1 - doubt
        if character in confusions:
            probs[2 * place, vocabulary.encode(confusions[character], "")] = doubt
        probs[2 * place + 1, 0] = 1.0
    return np.log(probs / probs.sum(axis=1, keepdims=True))


@pytest.fixture
def heard() -> dict[str, np.ndarray]:
    """ "sea" is heard a little more than "see", and the other way round: only the model can tell."""
    wrong = spoken("i sea the see", {"a": "e"}, 0.45)
    wrong[2 * len("i sea the se"), 5 + 1] = np.log(0.55)
    wrong[2 * len("i sea the se"), 1 + 1] = np.log(0.44)
    return {"u1": wrong - np.log(np.exp(wrong).sum(axis=1, keepdims=True))}


def make(model: LanguageModel | None, **numbers: float) -> BeamDecoder:
    start = DecoderConfig("beam", **{"alpha": 0.0, "beta": 0.0, "unknown": -5.0, **numbers})
    return BeamDecoder(Vocabulary.english(), 0.04, start, model)


@pytest.mark.parametrize("trials", [0, 4_294_967_294, 1.5])
def test_an_impossible_number_of_trials_is_refused(
    model: LanguageModel, heard: dict[str, np.ndarray], trials: float
) -> None:
    with pytest.raises(ConfigError, match="trials"):
        tune(make(model), heard, {"u1": TEXT}, trials)


def test_the_language_model_is_given_the_weight_it_deserves(
    model: LanguageModel, heard: dict[str, np.ndarray]
) -> None:
    decoder = make(model)
    assert decoder.decode(heard["u1"]).text == "i sea the see"
    seen: list[Trial] = []
    tuning = tune(decoder, heard, {"u1": TEXT}, trials=20, on_trial=seen.append)
    assert tuple(seen) == tuning.trials
    assert len(seen) == 20
    assert (seen[0].alpha, seen[0].beta, seen[0].unknown) == (0.0, 0.0, -5.0)
    assert seen[0].errors == 2
    assert tuning.report.errors == 0 == min(trial.errors for trial in seen)
    assert decoder.configured(tuning.config).decode(heard["u1"]).text == TEXT
    # Of equals, the first: the winner is the earliest trial without an error.
    first = next(trial for trial in seen if trial.errors == 0)
    assert (tuning.config.alpha, tuning.config.beta) == (first.alpha, first.beta)


def test_nothing_else_decides(model: LanguageModel, heard: dict[str, np.ndarray]) -> None:
    once = tune(make(model), heard, {"u1": TEXT}, trials=12)
    assert tune(make(model), heard, {"u1": TEXT}, trials=12, threads=2) == once
    other = tune(make(model), heard, {"u1": TEXT}, trials=12, seed=2)
    assert other.trials[0] == once.trials[0]
    assert other.trials[1:] != once.trials[1:]


def test_only_weights_that_act_are_tried(
    heard: dict[str, np.ndarray], model: LanguageModel
) -> None:
    strict = tune(make(model, strict=True), heard, {"u1": TEXT}, trials=8)
    assert {trial.unknown for trial in strict.trials} == {-5.0}
    lexicon = BeamDecoder(
        Vocabulary.english(), 0.04, DecoderConfig("beam", alpha=0.25), None, TEXT.split()
    )
    assert {t.alpha for t in tune(lexicon, heard, {"u1": TEXT}, trials=8).trials} == {0.25}
    with pytest.raises(DataError, match="no weights to tune"):
        tune(make(None), heard, {"u1": TEXT})
    with pytest.raises(DataError, match="no utterance"):
        tune(make(model), {}, {})


def test_priors_are_measured_and_taken_out_where_that_helps(model: LanguageModel) -> None:
    """A network that has heard far more of "e" than of "a" writes "see" where "sea" is said."""
    heard, texts = {}, {}
    for number, said in enumerate(["sea"] * 4 + ["see"] * 8):
        matrix = spoken(said, {"a": "e"}, 0.55)  # the second "e" is not in doubt
        heard[f"u{number}"], texts[f"u{number}"] = matrix, said
    decoder = make(model)
    tuning = tune(decoder, heard, texts, trials=40)
    frames = np.concatenate([np.exp(matrix) for matrix in heard.values()])
    np.testing.assert_allclose(tuning.config.priors, frames.mean(axis=0), rtol=1e-3)
    assert tuning.trials[0].prior == 0.0
    assert tuning.trials[0].errors == 4
    assert tuning.report.errors == 0
    assert tuning.config.prior > 0


def test_surface_shows_the_lowest_rate_of_each_cell(
    model: LanguageModel, heard: dict[str, np.ndarray]
) -> None:
    tuning = tune(make(model), heard, {"u1": TEXT}, trials=30)
    lines = tuning.surface(columns=4).split("\n")
    assert len(lines) == 5
    cells = [cell for line in lines[1:] for cell in line.split()[1:]]
    assert len(cells) == 16
    numbers = [float(cell) for cell in cells if cell != "."]
    assert min(numbers) == 0.0
    assert max(numbers) <= 100 * max(trial.wer for trial in tuning.trials)


def test_confidence_says_how_often_words_are_right(model: LanguageModel) -> None:
    """Words over which the beam is split are wrong more often: the fitted confidence is lower."""
    random = np.random.default_rng(5)
    heard, texts = {}, {}
    for number in range(60):
        doubt = random.uniform(0.01, 0.49)
        said, other = ("sea", "a") if random.random() < 0.5 else ("see", "e")
        swapped = random.random() < doubt  # what sounds likelier was not said
        name = f"u{number}"
        heard[name] = spoken(said, {other: {"a": "e", "e": "a"}[other]}, doubt)
        texts[name] = {"sea": "see", "see": "sea"}[said] if swapped else said
    decoder = make(model, alpha=0.0)
    tuning = tune(decoder, heard, texts, trials=1)
    assert tuning.config.confidence_slope > 0.2
    tuned = decoder.configured(tuning.config)
    confidences = np.array([tuned.decode(matrix).words[0].confidence for matrix in heard.values()])
    right = np.array([tuned.decode(m).text == texts[name] for name, m in heard.items()])
    assert abs(confidences.mean() - right.mean()) < 0.02
    raw = decoder.configured(replace(tuning.config, confidence_slope=1.0, confidence_offset=0.0))
    order = np.argsort([raw.decode(matrix).words[0].confidence for matrix in heard.values()])
    assert (np.diff(confidences[order]) >= -1e-12).all()


def test_all_right_leaves_the_confidence_alone(model: LanguageModel) -> None:
    sure = {"u1": spoken(TEXT, {}, 0.0)}
    tuning = tune(make(model, confidence_slope=0.7), sure, {"u1": TEXT}, trials=3)
    assert tuning.report.errors == 0
    assert tuning.config.confidence_slope == 0.7


def guess(count: int, slope: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors of words, and whether they are right: as often as a logistic of them says."""
    random = np.random.default_rng(7)
    posteriors = 1 / (1 + np.exp(-random.normal(1, 2, count)))
    return posteriors, random.random(count) < calibrate(posteriors, slope, offset)


def test_the_alignment_tells_which_words_are_right() -> None:
    words = [Word(text, 0, 1, p) for text, p in (("the", 0.9), ("sea", 0.6), ("now", 0.2))]
    hypothesis = Hypothesis("the sea now", tuple(words), 1.0, 0.0)
    [utterance] = score({"u": "i the see now"}, {"u": "the sea now"}).utterances
    assert label_words(hypothesis, utterance) == [(0.9, True), (0.6, False), (0.2, True)]
    [split] = score({"u": "i the see now"}, {"u": "the s e a now"}).utterances
    assert label_words(hypothesis, split) == [], "the words are not those of the score"


def test_what_the_logistic_is_made_of_is_found_again() -> None:
    slope, offset = fit_confidence(*guess(20_000, 0.4, -0.9)) or (0, 0)
    assert (slope, offset) == pytest.approx((0.4, -0.9), abs=0.06)
    posteriors = np.array([0.2, 0.9])
    assert fit_confidence(posteriors, np.array([True, True])) is None
    assert fit_confidence(posteriors, np.array([False, False])) is None


def test_a_beam_that_is_too_narrow_for_doubts_does_not_decide_the_slope() -> None:
    """A tenth of the words has a posterior of 1, and three quarters of those are right."""
    posteriors, right = guess(4_000, 0.6, -1.0)
    sure = np.arange(len(right)) % 10 == 0
    posteriors[sure] = 1 - 1e-6
    right[sure] = np.arange(sure.sum()) % 4 < 3
    fitted = fit_confidence(posteriors, right)
    assert fitted is not None
    assert calibration_error(calibrate(posteriors[~sure], *fitted), right[~sure]) < 0.06


def test_confidence_that_is_true_has_little_error() -> None:
    posteriors, right = guess(20_000, 0.4, -0.9)
    assert calibration_error(calibrate(posteriors, 0.4, -0.9), right) < 0.02
    assert calibration_error(posteriors, right) > 0.2
    always = np.full(8, 0.75)
    assert calibration_error(always, np.arange(8) % 4 < 3) == pytest.approx(0.375), "one each"
    bins = reliability(np.linspace(0, 1, 25), np.arange(25) >= 20)
    assert [count for *_, count in bins] == [3] * 5 + [2] * 5
    assert bins[0] == (pytest.approx(1 / 24), 0.0, 3)
    assert [share for _, share, _ in bins[-3:]] == [0.5, 1.0, 1.0]
    assert len(reliability(np.array([0.5]), np.array([True]))) == 1


def test_the_area_is_how_often_the_right_word_is_surer() -> None:
    random = np.random.default_rng(2)
    confidences = random.integers(0, 12, 300) / 11  # with many equals
    right = random.random(300) < confidences
    pairs = [(a, b) for a in confidences[right] for b in confidences[~right]]
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert auroc(confidences, right) == pytest.approx(expected)
    assert auroc(np.array([0.1, 0.9]), np.array([False, True])) == 1
    assert np.isnan(auroc(confidences, np.ones(300, bool)))


def test_the_decoder_calibrates_alike(model: LanguageModel, heard: dict[str, np.ndarray]) -> None:
    plain = make(model, confidence_slope=1.0, confidence_offset=0.0).decode(heard["u1"])
    tuned = make(model, confidence_slope=0.3, confidence_offset=-0.8).decode(heard["u1"])
    posteriors = np.array([word.confidence for word in plain.words])
    expected = [word.confidence for word in tuned.words]
    assert calibrate(posteriors, 0.3, -0.8) == pytest.approx(expected)
