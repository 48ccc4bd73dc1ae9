"""Tuning of the beam decoder, on log-probs whose best weights are known by construction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr.beam import BeamDecoder
from asr.decode import DecoderConfig
from asr.errors import DataError
from asr.language import LanguageModel
from asr.text import Vocabulary
from asr.tuning import Trial, tune

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


def test_the_language_model_is_given_the_weight_it_deserves(
    model: LanguageModel, heard: dict[str, np.ndarray]
) -> None:
    decoder = make(model)
    assert decoder.decode(heard["u1"]).text == "i sea the see"
    seen: list[Trial] = []
    tuning = tune(decoder, heard, {"u1": TEXT}, trials=20, each=seen.append)
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
