"""Estimating language models: against lmplz, and against the equations in plain Python.

tests/data/lmplz-*.arpa.gz are random samples of 1,500 n-grams of each order (and <unk>, <s> and
</s>) out of what KenLM's lmplz wrote, under its true counts. Their options are in their names:

    zcat books.txt.gz | head -n 8000 | lmplz --order 4 --prune 0 0 1 2 > FILE.arpa
    zcat books.txt.gz | head -n 8000 | lmplz --order 3 --limit_vocab_file LIST > FILE.arpa

where LIST holds the 2,000 most frequent words, the earlier one of equals first.
"""

import gzip
import io
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT

from asr.errors import AsrError, ConfigError, TextError
from asr.lm.estimation import EstimationConfig, EstimationWarning, _sort_keys, read_sentences
from asr.lm.model import LanguageModel, query

DATA = ROOT / "tests/data"
LN10 = math.log(10)

NGram = tuple[str, ...]
Values = dict[NGram, tuple[float, float]]  # natural log-probability and back-off


def values(model: LanguageModel) -> Values:
    """All n-grams of a model, found by traversing its tree."""
    ngrams = model.ngrams
    contexts = len(ngrams.backoff)
    found: Values = {}
    names: list[NGram] = [()] * len(ngrams.word)
    for node in range(contexts):
        for child in range(ngrams.first_child[node], ngrams.first_child[node + 1]):
            names[child] = (*names[node], model.words[ngrams.word[child]])
            backoff = float(ngrams.backoff[child]) if child < contexts else 0.0
            found[names[child]] = (float(ngrams.log_prob[child]), backoff)
    return found


def estimate_model(
    sentences: Iterable[str],
    config: EstimationConfig | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> LanguageModel:
    return LanguageModel.estimate(
        sentences, **asdict(config or EstimationConfig()), on_progress=on_progress
    )


def estimate_quietly(sentences: Iterable[str], config: EstimationConfig) -> LanguageModel:
    """Estimate a model without warnings about discounts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimationWarning)
        return estimate_model(sentences, config)


# Modified Kneser-Ney as the papers write it


def most_frequent(sentences: Sequence[str], limit: int | None) -> set[str]:
    counts = Counter(word for sentence in sentences for word in sentence.split())
    return {word for word, _ in counts.most_common(limit)} | {"<unk>", "<s>", "</s>"}


def discounts_of(counts: Iterable[int]) -> tuple[float, float, float, float]:
    n1, n2, n3, n4 = (list(counts).count(times) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return 0, 0.5, 1, 1.5
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if min(found) <= 0:
        return 0, 0.5, 1, 1.5
    return 0, *found


def estimate_slowly(sentences: Sequence[str], config: EstimationConfig) -> Values:
    """The definition, n-gram by n-gram."""
    order, thresholds = config.order, config.thresholds()
    known = most_frequent(sentences, config.vocabulary_limit)
    occurrences: Counter[NGram] = Counter()
    for sentence in sentences:
        words = ["<s>", *sentence.split(), "</s>"]
        for length in range(1, order + 1):
            for start in range(len(words) - length + 1):
                occurrences[tuple(words[start : start + length])] += 1
    del occurrences["<s>",]

    neighbors: dict[NGram, set[str]] = {ngram: set() for ngram in occurrences}
    for ngram in occurrences:
        if len(ngram) > 1:
            neighbors[ngram[1:]].add(ngram[0])
    adjusted = {
        ngram: count if len(ngram) == order or ngram[0] == "<s>" else len(neighbors[ngram])
        for ngram, count in occurrences.items()
    }
    discounts = {
        length: discounts_of([count for ngram, count in adjusted.items() if len(ngram) == length])
        for length in range(1, order + 1)
    }
    following: dict[NGram, list[NGram]] = {}
    for ngram in adjusted:
        following.setdefault(ngram[:-1], []).append(ngram)

    def stays(ngram: NGram) -> bool:
        return set(ngram) <= known and occurrences[ngram] > thresholds[len(ngram) - 1]

    def discount(ngram: NGram) -> float:
        return discounts[len(ngram)][min(adjusted[ngram], 3)]

    def total(context: NGram) -> int:
        return sum(adjusted[ngram] for ngram in following[context])

    def backoff(context: NGram) -> float:
        if context not in following:
            return 1.0
        freed = [discount(n) if stays(n) else adjusted[n] for n in following[context]]
        return sum(freed) / total(context)

    def prob(ngram: NGram) -> float:
        if not ngram:
            return 1 / (len(known) - 1)
        own = 0.0
        if ngram in adjusted:
            own = (adjusted[ngram] - discount(ngram)) / total(ngram[:-1])
        return own + backoff(ngram[:-1]) * prob(ngram[1:])

    kept = [("<unk>",), *filter(stays, adjusted)]
    result = {
        ngram: (math.log(prob(ngram)), math.log(backoff(ngram)) if len(ngram) < order else 0.0)
        for ngram in kept
    }
    result["<s>",] = (0.0, math.log(backoff(("<s>",))) if order > 1 else 0.0)
    return result


def assert_same(found: Values, expected: Values, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    ngrams = list(expected)
    np.testing.assert_allclose(
        [found[ngram] for ngram in ngrams],
        [expected[ngram] for ngram in ngrams],
        rtol=0,
        atol=tolerance,
    )


TEXTS = st.lists(
    st.lists(st.sampled_from("a b c d e".split()), max_size=7).map(" ".join),
    min_size=1,
    max_size=12,
).filter(lambda sentences: any(sentences))


@st.composite
def configs(draw: st.DrawFn) -> EstimationConfig:
    order = draw(st.integers(1, 5))
    prune = [0, *sorted(draw(st.lists(st.integers(0, 2), max_size=order - 1)))]
    limit = draw(st.none() | st.integers(1, 4))
    return EstimationConfig(order, prune, limit)


def random_text(seed: int, sentences: int) -> list[str]:
    """A few frequent words with typical successors and many rare ones, enough for all discounts."""
    choice = random.Random(seed)
    text = []
    for _ in range(sentences):
        word, words = 1, []
        for _ in range(choice.randint(0, 9)):
            word = (word * 7 + 1) % 20 if choice.random() < 0.5 else int(choice.paretovariate(0.6))
            words.append(f"w{word}")
        text.append(" ".join(words))
    return text


class TestEquations:
    @pytest.mark.slow
    @given(TEXTS, configs())
    @settings(deadline=None, max_examples=200)
    def test_tiny_texts_equal_the_definition(
        self, sentences: list[str], config: EstimationConfig
    ) -> None:
        model = estimate_quietly(sentences, config)
        assert model.order == config.order
        assert_same(values(model), estimate_slowly(sentences, config), 1e-5)

    @pytest.mark.parametrize(
        "config",
        [
            EstimationConfig(2),
            EstimationConfig(3, [0, 1]),
            EstimationConfig(4, [0, 0, 1, 2]),
            EstimationConfig(3, [0], 20),
            EstimationConfig(3, [0, 1], 20),
        ],
    )
    def test_a_text_with_estimated_discounts_equals_the_definition(
        self, config: EstimationConfig
    ) -> None:
        sentences = random_text(1, 400)
        assert_same(
            values(estimate_model(sentences, config)), estimate_slowly(sentences, config), 1e-5
        )

    @given(TEXTS, configs())
    @settings(deadline=None, max_examples=50)
    def test_probabilities_sum_to_one_after_every_context(
        self, sentences: list[str], config: EstimationConfig
    ) -> None:
        model = estimate_quietly(sentences, config)
        predicted = [i for i, word in enumerate(model.words) if word != "<s>"]
        for state in [0, *np.flatnonzero(np.diff(model.ngrams.first_child)).tolist()]:
            log_probs = [query(model.ngrams, state, np.int64(word))[0] for word in predicted]
            assert math.fsum(map(math.exp, log_probs)) == pytest.approx(1, abs=1e-5)

    @given(TEXTS, st.randoms(use_true_random=False), st.integers(1, 4))
    @settings(deadline=None, max_examples=50)
    def test_the_order_of_sentences_does_not_matter(
        self, sentences: list[str], chance: random.Random, order: int
    ) -> None:
        config = EstimationConfig(order, [0, *[1] * (order > 1)])
        shuffled = chance.sample(sentences, len(sentences))
        assert_same(
            values(estimate_quietly(sentences, config)),
            values(estimate_quietly(shuffled, config)),
            1e-6,
        )


# lmplz


def read_sample(name: str) -> tuple[list[int], Values]:
    """The number of n-grams of each order, and the n-grams of the sample."""
    counts, sample = [], {}
    for line in gzip.decompress((DATA / name).read_bytes()).decode().splitlines():
        fields = line.split("\t")
        if line.startswith("ngram "):
            counts.append(int(line.partition("=")[2]))
        elif len(fields) > 1:
            log10_prob, ngram, log10_backoff = [*fields, "0"][:3]
            sample[tuple(ngram.split(" "))] = (
                float(log10_prob) * LN10,
                float(log10_backoff) * LN10,
            )
    return counts, sample


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("order-3-prune-0", EstimationConfig(3)),
        ("order-4-prune-0", EstimationConfig(4)),
        ("order-3-prune-0-1-1", EstimationConfig(3, [0, 1, 1])),
        ("order-4-prune-0-0-1-2", EstimationConfig(4, [0, 0, 1, 2])),
        ("order-3-limit-2000", EstimationConfig(3, vocabulary_limit=2000)),
    ],
)
def test_values_equal_those_of_lmplz(shared: Path, name: str, config: EstimationConfig) -> None:
    books = shared / "text" / "books.txt.gz"
    if not books.is_file():
        pytest.skip("the shared text is not beside this checkout")
    model = estimate_model(islice(read_sentences([books]), 8000), config)

    counts, sample = read_sample(f"lmplz-{name}.arpa.gz")
    found = values(model)
    lengths = Counter(map(len, found))
    assert [lengths[length] for length in range(1, config.order + 1)] == counts
    assert sample.keys() <= found.keys()
    assert_same({ngram: found[ngram] for ngram in sample}, sample, 1e-5 * LN10)


# What the text may be


class TestText:
    def test_words_come_in_order_of_appearance_after_the_reserved_ones(self) -> None:
        model = estimate_quietly(["the cat", "the\tdog \n"], EstimationConfig(2))
        assert list(model.words) == ["<unk>", "<s>", "</s>", "the", "cat", "dog"]

    def test_a_limited_vocabulary_keeps_the_most_frequent_words_and_the_earlier_of_equals(
        self,
    ) -> None:
        text = ["d b a", "c a b", "a"]
        model = estimate_quietly(text, EstimationConfig(2, vocabulary_limit=3))
        assert list(model.words) == ["<unk>", "<s>", "</s>", "d", "b", "a"]
        assert model.score("a c") == model.score("a zebra") < model.score("a b")

    def test_a_limit_above_the_vocabulary_changes_nothing(self) -> None:
        text = random_text(2, 300)
        limited = estimate_model(text, EstimationConfig(3, vocabulary_limit=1000))
        assert values(limited) == values(estimate_model(text, EstimationConfig(3)))

    def test_one_word(self) -> None:
        with pytest.warns(EstimationWarning):
            model = estimate_model(["yes"], EstimationConfig(3))
        assert set(values(model)) >= {("yes",), ("<s>", "yes"), ("<s>", "yes", "</s>")}
        assert model.score("yes") > model.score("no")

    def test_an_order_longer_than_every_sentence(self) -> None:
        with pytest.warns(EstimationWarning):
            model = estimate_model(["a", "b"], EstimationConfig(5))
        assert model.order == 5
        assert max(map(len, values(model))) == 3

    def test_one_sentence_repeated(self) -> None:
        config = EstimationConfig(3)
        text = ["the same again"] * 50
        with pytest.warns(EstimationWarning):
            model = estimate_model(text, config)
        assert_same(values(model), estimate_slowly(text, config), 1e-5)

    def test_lines_without_words_are_empty_sentences(self) -> None:
        text = random_text(3, 300)
        with_empty = [*text, "", "  \t ", "\n"]
        ends = values(estimate_model(with_empty, EstimationConfig(2)))["<s>", "</s>"]
        assert ends == pytest.approx(
            estimate_slowly([*text, "", "", ""], EstimationConfig(2))["<s>", "</s>"], abs=1e-5
        )
        assert ends > values(estimate_model(text, EstimationConfig(2)))["<s>", "</s>"]

    @pytest.mark.parametrize("text", [[], [""], [" ", "\t\n"]])
    def test_a_text_without_words_is_rejected(self, text: list[str]) -> None:
        with pytest.raises(TextError, match="from a text without words"):
            estimate_model(text)

    @pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>"])
    def test_reserved_words_are_rejected_with_the_sentence_number(self, word: str) -> None:
        with pytest.raises(
            TextError, match=f"sentence 3 of the text contains {word}, which is reserved"
        ):
            estimate_model(["a b", "", f"b {word} a"])

    def test_words_similar_to_reserved_ones_are_accepted(self) -> None:
        model = estimate_quietly(["<S> <unk>s"], EstimationConfig(1))
        assert {"<S>", "<unk>s"} <= set(model.words)

    def test_small_texts_cause_a_warning_that_names_the_orders(self) -> None:
        with pytest.warns(EstimationWarning) as caught:
            LanguageModel.estimate(["a b c", "a c"], 2)
        (warning,) = caught
        message = str(warning.message)
        assert "the discounts of the 1-grams, 2-grams" in message
        assert "0.5, 1.0, 1.5 are used" in message
        assert warning.filename == __file__

    def test_only_the_orders_that_need_it_fall_back(self) -> None:
        text = [f"w{i}" for i in range(40) for _ in range(i % 4 + 1)]
        with pytest.warns(EstimationWarning, match="discounts of the 1-grams, so"):
            estimate_model(text, EstimationConfig(2))

    def test_a_discount_of_0_falls_back_so_that_every_word_stays_possible(self) -> None:
        text = ["once", *["twice"] * 2, *["thrice"] * 3, *["again"] * 3]  # D2 of the 2-grams is 0
        with pytest.warns(EstimationWarning, match="2-grams"):
            model = estimate_model(text, EstimationConfig(2))
        assert math.isfinite(model.score("twice once"))

    def test_on_progress_is_called_when_each_stage_begins(self) -> None:
        stages: list[str] = []

        def sentences() -> Iterator[str]:
            assert stages == ["reading the text"]
            yield from random_text(4, 300)

        estimate_model(sentences(), EstimationConfig(3), stages.append)
        assert stages == [
            "reading the text",
            "counting 1-grams",
            "counting 2-grams",
            "counting 3-grams",
            "computing probabilities",
            "arranging the model",
        ]


@given(st.data(), st.sampled_from([1, 5, 2**40, 2**59, 2**60, 2**63 - 1]))
def test_large_keys_sort_like_small_ones(data: st.DataObject, limit: int) -> None:
    """Real texts whose keys and indices exceed 64 bits are too large for a test."""
    keys = data.draw(st.lists(st.integers(0, limit - 1) | st.just(limit - 1), max_size=40))
    array = np.array(keys, np.int64)
    in_order, places = _sort_keys(array, limit)
    assert in_order.tolist() == sorted(keys)
    assert sorted(places.tolist()) == list(range(len(keys)))
    assert array[places].tolist() == in_order.tolist()


class TestConfig:
    def test_the_last_threshold_applies_to_higher_orders(self) -> None:
        assert EstimationConfig(4).thresholds() == [0, 0, 0, 0]
        assert EstimationConfig(4, [0, 1]).thresholds() == [0, 1, 1, 1]

    @pytest.mark.parametrize("order", [0, 6, -1, 2.5, "3", True])
    def test_impossible_orders_are_rejected(self, order: int) -> None:
        with pytest.raises(ConfigError, match=r"^order is .* from 1 to 5"):
            EstimationConfig(order)

    @pytest.mark.parametrize("prune", [[], [1], [0, -1], [0, 2, 1], [0, 0.5], [0, "1"]])
    def test_impossible_thresholds_are_rejected(self, prune: list[int]) -> None:
        with pytest.raises(ConfigError, match=r"^prune is .* begin with 0 and never decrease"):
            EstimationConfig(3, prune)

    def test_more_thresholds_than_orders_are_rejected(self) -> None:
        with pytest.raises(ConfigError, match="longer than the order; use at most 2 counts"):
            EstimationConfig(2, [0, 0, 1])

    @pytest.mark.parametrize("limit", [0, -5, 1.5, "all"])
    def test_impossible_limits_are_rejected(self, limit: int) -> None:
        with pytest.raises(ConfigError, match=r"^vocabulary_limit is .* at least 1, or None"):
            EstimationConfig(vocabulary_limit=limit)


class TestReading:
    def test_plain_and_gzipped_files_are_concatenated(self, tmp_path: Path) -> None:
        plain, packed = tmp_path / "plain.gz", tmp_path / "packed.txt"  # the names mislead
        plain.write_bytes("\ufeffa b\r\n\nc é".encode())
        packed.write_bytes(gzip.compress(b"d\ne f\n"))
        sentences = [line.split() for line in read_sentences([plain, str(packed)])]
        assert sentences == [["a", "b"], [], ["c", "é"], ["d"], ["e", "f"]]

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_standard_input_stays_open(self, monkeypatch: pytest.MonkeyPatch, pack: type) -> None:
        stream = io.BufferedReader(io.BytesIO(pack(b"a b\nc")))  # type: ignore[arg-type]
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
        assert list(read_sentences(["-"])) == ["a b\n", "c"]
        assert not stream.closed

    def test_lines_are_read_lazily(self, tmp_path: Path) -> None:
        path = tmp_path / "text"
        path.write_bytes(b"good line\n" * 3 + b"\xff\n")
        assert next(read_sentences([path])) == "good line\n"

    def test_a_missing_file_is_rejected_before_the_first_line(self, tmp_path: Path) -> None:
        path = tmp_path / "text"
        path.write_text("a b\n", "utf-8")
        with pytest.raises(TextError, match=r"the text .*gone does not exist; use a file"):
            read_sentences([path, tmp_path / "gone"])
        with pytest.raises(TextError, match="is a folder; use a file"):
            read_sentences([path, tmp_path])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "contains no words; write one sentence"),
            (b"\n  \n", "contains no words"),
            (b"\xef\xbb\xbf", "contains no words"),
            (gzip.compress(b"", mtime=0), "contains no words"),
            (b"a\nb\nc\x00d\n", "line 3 of .* contains a zero byte; use UTF-8 text"),
            ("a\nb".encode("utf-16"), "line 1 of .* contains a zero byte"),
            (b"a\ncaf\xe9 b\n", r"line 2 of .* is not UTF-8 \(.* at byte 3\); convert the text"),
            (b"a\nb <unk> c\n", "line 2 of .* contains <unk>, which is reserved"),
            (gzip.compress(b"a b c\n" * 100, mtime=0)[:-12], r"cannot be read \(.*\); check it"),
            (
                gzip.compress(b"a b c\n" * 100, mtime=0)[:-8] + bytes(8),
                r"cannot be read \(.*\); check it",
            ),
            (
                gzip.compress(b"a b c", mtime=0)[:10] + b"\xff" * 20,
                r"cannot be read \(.*\); check it",
            ),
            (b"\x1f\x8bno gzip at all", r"cannot be read \(.*\); check it"),
        ],
    )
    def test_invalid_texts_are_rejected_in_one_sentence(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "text"
        path.write_bytes(content)
        with pytest.raises(AsrError, match=message) as error:
            list(read_sentences([path]))
        assert isinstance(error.value, TextError)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
