"""Mixtures of language models: against the definition, word by word, and against brute force."""

import itertools
import math
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import RunAsr, one_sentence

from asr.errors import ConfigError, LanguageError
from asr.lm.mixture import fit_weights, mix
from asr.lm.model import LanguageModel
from asr.lm.ngrams import query


def write_sentences(letters: str, count: int, seed: int) -> list[str]:
    """Random sentences in which some words are more likely than others to follow a word."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        place, words = draw.randrange(len(letters)), []
        for _ in range(draw.randint(1, 6)):
            words.append(letters[place])
            place = (place + draw.choice([1, 1, 1, 2, 3])) % len(letters)
        sentences.append(" ".join(words))
    return sentences


def estimate(sentences: Sequence[str], order: int) -> LanguageModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the text is small
        return LanguageModel.estimate(sentences, order)


@pytest.fixture(scope="module")
def models() -> list[LanguageModel]:
    """Two models of different orders, whose words overlap."""
    return [
        estimate(write_sentences("abcdefg", 300, 1), 3),
        estimate(write_sentences("cdefghij", 200, 2), 2),
    ]


@pytest.fixture(scope="module")
def dev() -> list[str]:
    return write_sentences("cdefghij", 50, 5) + write_sentences("abcdefg", 20, 6)


def prob(model: LanguageModel, context: Sequence[str], word: str) -> float:
    state = 0
    for before in context:
        state = query(model.ngrams, state, np.int64(model.word_id(before)))[1]
    return math.exp(query(model.ngrams, state, np.int64(model.word_id(word)))[0])


def contexts(model: LanguageModel, longest: int) -> list[tuple[str, ...]]:
    words = [word for word in model.words if word != "</s>"]
    found = [c for k in range(longest + 1) for c in itertools.product(words, repeat=k)]
    return [context for context in found if "<s>" not in context[1:]]


def ngrams(model: LanguageModel, longest: int) -> set[tuple[str, ...]]:
    """The n-grams that the model has."""
    found = set()
    starts = np.array([0, 1])
    rows: list[tuple[str, ...]] = [()]
    first_child, word = model.ngrams.first_child, model.ngrams.word
    for _ in range(longest):
        below = []
        for row, node in zip(rows, range(starts[0], starts[0] + len(rows)), strict=True):
            below += [
                (*row, model.words[word[child]])
                for child in range(first_child[node], first_child[node + 1])
            ]
        starts = np.array([starts[1], starts[1] + len(below)])
        rows = below
        found |= set(rows)
    return found


def test_every_distribution_sums_to_one(models: list[LanguageModel]) -> None:
    for limit in (None, 60):
        model = mix(models, [0.3, 0.7], limit).model
        predicted = [word for word in model.words if word != "<s>"]
        for context in contexts(model, 2):
            assert sum(prob(model, context, word) for word in predicted) == pytest.approx(
                1, abs=1e-5
            )


def test_an_ngram_of_any_model_has_the_interpolated_probability(
    models: list[LanguageModel],
) -> None:
    model = mix(models, [3, 7]).model
    assert model.order == 3
    assert set(model.words) == set(models[0].words) | set(models[1].words)
    wanted = ngrams(models[0], 3) | ngrams(models[1], 2)
    assert ngrams(model, 3) == wanted
    for *context, word in wanted:
        if word == "<s>":
            continue
        expected = sum(
            share * prob(one, context, word)
            for one, share in zip(models, (0.3, 0.7), strict=True)
            if word in one.words
        )
        assert prob(model, context, word) == pytest.approx(expected, rel=1e-5)


def test_a_model_mixed_with_itself_is_itself(models: list[LanguageModel], dev: list[str]) -> None:
    model = mix([models[0], models[0]], [0.2, 0.8]).model
    for sentence in dev:
        assert model.score(sentence) == pytest.approx(models[0].score(sentence), abs=1e-4)


def test_the_weights_make_the_text_most_probable(
    models: list[LanguageModel], dev: list[str]
) -> None:
    def loss(share: float) -> float:
        """Of the words that a model knows, by the probabilities of the models themselves."""
        total = 0.0
        for sentence in dev:
            before = ["<s>"]
            for word in [*sentence.split(), "</s>"]:
                parts = [
                    prob(one, before[-2:], word) if word in one.words else 0.0 for one in models
                ]
                total -= math.log(share * parts[0] + (1 - share) * parts[1])
                before.append(word)
        return total

    weights = fit_weights(models, dev)
    assert sum(weights) == pytest.approx(1)
    best = min((loss(share / 100), share / 100) for share in range(1, 100))
    assert weights[0] == pytest.approx(best[1], abs=0.01)
    mixed = mix(models, weights).model.perplexity(dev).perplexity
    assert mixed < min(mix(models, [x, 1 - x]).model.perplexity(dev).perplexity for x in (0.1, 0.7))


def divergence(model: LanguageModel, gram: tuple[str, ...], seen: set[tuple[str, ...]]) -> float:
    """The relative entropy between a model and the same without an n-gram, word by word."""
    *context, lost = gram
    joint = 1.0
    for place, word in enumerate(context):
        joint *= prob(model, context[:place], "</s>" if word == "<s>" else word)
    predicted = [word for word in model.words if word != "<s>"]
    rest = [word for word in predicted if (*context, word) in seen and word != lost]
    left = 1 - sum(prob(model, context, word) for word in rest)
    lower = 1 - sum(prob(model, context[1:], word) for word in rest)
    total = 0.0
    for word in set(predicted) - set(rest):
        without = left / lower * prob(model, context[1:], word)
        total += prob(model, context, word) * math.log(prob(model, context, word) / without)
    return joint * total


def test_pruning_keeps_the_ngrams_that_matter_most(models: list[LanguageModel]) -> None:
    whole = mix(models, [0.5, 0.5]).model
    seen = {gram for gram in ngrams(whole, 3) if len(gram) > 1}
    losses = {gram: divergence(whole, gram, seen) for gram in seen}
    ranked = sorted(seen, key=lambda gram: -losses[gram])
    for limit in (len(seen) - 1, 100, 50, 10):
        pruned = mix(models, [0.5, 0.5], limit)
        found = {gram for gram in ngrams(pruned.model, 3) if len(gram) > 1}
        least = losses[ranked[limit - 1]]
        wanted = {gram for gram in seen if losses[gram] > least * (1 + 1e-3)}
        wanted |= {gram[:-1] for gram in wanted if len(gram) > 2}
        allowed = {gram for gram in seen if losses[gram] > least * (1 - 1e-3)}
        allowed |= {gram[:-1] for gram in allowed if len(gram) > 2}
        assert wanted <= found <= allowed
        assert pruned.dropped == len(seen) - len(found)


def test_contexts_of_what_stays_are_kept(models: list[LanguageModel]) -> None:
    model = mix(models, [0.5, 0.5], limit=40).model
    found = ngrams(model, 3)
    assert all(gram[:-1] in found for gram in found if len(gram) > 1)
    assert sum(len(gram) > 1 for gram in found) >= 40


def test_only_the_most_probable_words_are_kept(models: list[LanguageModel]) -> None:
    whole, small = (mix(models, [0.5, 0.5], None, limit).model for limit in (None, 4))
    assert len(small.words) == 4 + 3
    rest = [word for word in whole.words if word not in small.words]
    kept = [word for word in small.words if word not in ("<unk>", "<s>", "</s>")]
    assert min(prob(whole, (), w) for w in kept) >= max(prob(whole, (), w) for w in rest)
    lost = sum(prob(whole, (), word) for word in rest)
    assert prob(small, (), "<unk>") == pytest.approx(prob(whole, (), "<unk>") + lost, rel=1e-5)


def test_invalid_values_are_refused(models: list[LanguageModel]) -> None:
    for weights in ([1.0], [1.0, -0.1], [0.0, 0.0], [1.0, math.nan], [1.0, 1.0, 1.0]):
        with pytest.raises(ConfigError, match="weights"):
            mix(models, weights)
    with pytest.raises(ConfigError, match="at least two models"):
        mix(models[:1], [1.0])
    for limits in ({"limit": 0}, {"vocabulary_limit": -1}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            mix(models, [1.0, 1.0], **limits)
    with pytest.raises(LanguageError, match="no word"):
        fit_weights(models, [])


# The command


@pytest.fixture
def files(models: list[LanguageModel], dev: list[str], tmp_path: Path) -> Path:
    models[0].write(tmp_path / "one.lm")
    models[1].write_arpa(tmp_path / "two.arpa.gz")
    (tmp_path / "dev.txt").write_text("\n".join(dev))
    return tmp_path


def test_the_command_mixes_tunes_and_prunes(
    run_asr: RunAsr, models: list[LanguageModel], dev: list[str], files: Path
) -> None:
    names = files / "one.lm", files / "two.arpa.gz"
    options = "--tune", files / "dev.txt", "--limit", "60", "-o", files / "mixed.lm"
    code, out, err = run_asr("lm", "mix", *names, *options)
    assert code == 0, err
    weights = fit_weights(models, dev)
    assert f"one.lm       {weights[0]:.4f}" in out
    expected = mix(models, weights, 60)
    assert f"n-grams pruned  {expected.dropped}" in out
    found = LanguageModel.read(files / "mixed.lm").perplexity(dev).perplexity
    assert found == pytest.approx(expected.model.perplexity(dev).perplexity, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["one.lm"], "needs at least two"),
        (["one.lm", "none.lm"], "none.lm cannot be read"),
        (["one.lm", "two.arpa.gz", "--weights", "1"], "a weight for each"),
        (["one.lm", "two.arpa.gz", "--weights", "1", "-1"], "must be 0 or more"),
        (["one.lm", "two.arpa.gz", "--tune", "none.txt"], "none.txt does not exist"),
    ],
)
def test_wrong_calls_are_one_sentence(
    run_asr: RunAsr, files: Path, monkeypatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(files)
    code, _, err = run_asr("lm", "mix", *words, "-o", "out.lm")
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith("mixing")]
    assert named in one_sentence("\n".join(lines))
    assert not (files / "out.lm").exists()


def test_an_output_is_not_one_of_the_models(run_asr: RunAsr, files: Path) -> None:
    names = files / "one.lm", files / "two.arpa.gz"
    code, _, err = run_asr("lm", "mix", *names, "-o", names[0])
    assert code == 2
    assert "would be written over" in one_sentence(err)
