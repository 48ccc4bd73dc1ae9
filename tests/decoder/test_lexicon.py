"""Lexicon and hotwords, against dictionaries and a naive count."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asr.decoder.hotwords import Hotwords, build_hotwords, read_hotwords
from asr.decoder.lexicon import MASK_SYMBOLS, Nodes, build_lexicon, look_ahead, read_words, spell
from asr.errors import AsrError, ConfigError, DataError, TextError
from asr.text import BLANK, Vocabulary

VOCABULARY = Vocabulary.from_list([BLANK, " ", "a", "b", "c"])


def child(lexicon: Nodes, node: int, symbol: int) -> int:
    """The child of `node` for `symbol`, or -1, found by checking all children."""
    first = int(lexicon[node]["first_child"])
    for below in range(first, first + int(lexicon[node]["children"])):
        if lexicon[below]["symbol"] == symbol:
            return below
    return -1


def walk(lexicon: Nodes, spelling: list[int]) -> list[int]:
    """The nodes from the root along a spelling."""
    nodes = [0]
    for symbol in spelling:
        nodes.append(child(lexicon, nodes[-1], symbol))
        assert nodes[-1] > 0
    return nodes


@st.composite
def spellings(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int]:
    """Words as symbol ids, their own ids, and the size of the vocabulary."""
    symbols = draw(st.sampled_from([2, 3, 5, 63, 64, 65, 300]))
    used = sorted({1, symbols - 1, *draw(st.lists(st.integers(1, symbols - 1), max_size=4))})
    words = draw(st.lists(st.lists(st.sampled_from(used), min_size=1, max_size=6), max_size=25))
    ids = draw(st.lists(st.integers(0, 9), min_size=len(words), max_size=len(words)))
    return words, ids, symbols


class TestTrie:
    @pytest.mark.slow
    @given(spellings())
    @settings(deadline=None, max_examples=300)
    def test_a_trie_holds_exactly_the_words_and_their_prefixes(
        self, given_words: tuple[list[list[int]], list[int], int]
    ) -> None:
        words, ids, symbols = given_words
        lexicon = build_lexicon(words, ids, symbols)
        expected: dict[tuple[int, ...], int] = {}
        for word, number in zip(words, ids, strict=True):
            expected.setdefault(tuple(word), number)
        beginnings = {tuple(word[:end]) for word in words for end in range(len(word) + 1)} | {()}
        assert len(lexicon) == len(beginnings)
        found: dict[tuple[int, ...], int] = {}
        reached = {}
        queue: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        for node, spelling in queue:
            reached[node] = spelling
            if lexicon[node]["word"] >= 0:
                found[spelling] = int(lexicon[node]["word"])
            first, count = int(lexicon[node]["first_child"]), int(lexicon[node]["children"])
            below = lexicon["symbol"][first : first + count].tolist()
            assert below == sorted(set(below))
            if symbols <= MASK_SYMBOLS:
                mask = int(lexicon[node]["mask"]) % 2**64
                assert mask == sum(1 << symbol for symbol in below)
            queue += [(first + k, (*spelling, symbol)) for k, symbol in enumerate(below)]
            assert len(queue) <= len(lexicon)
        assert found == expected
        assert sorted(reached) == list(range(len(lexicon)))
        assert set(reached.values()) == beginnings
        for name in ("enter", "leave"):
            assert (lexicon[name] == 1).all()
        assert (lexicon["ahead"] == 0).all()

    def test_an_empty_trie_is_a_root(self) -> None:
        lexicon = build_lexicon([], [], 5)
        assert len(lexicon) == 1
        assert (lexicon[0]["children"], lexicon[0]["mask"], lexicon[0]["word"]) == (0, 0, -1)

    def test_a_trie_keeps_the_first_id_of_a_spelling(self) -> None:
        lexicon = build_lexicon([[3], [2, 3], [3], [2, 3], [2]], [7, 5, 1, 0, 9], 5)
        assert [int(lexicon[walk(lexicon, word)[-1]]["word"]) for word in ([3], [2, 3], [2])] == [
            7, 5, 9,
        ]  # fmt: skip

    def test_a_large_trie_is_complete(self) -> None:
        generator = np.random.default_rng(0)
        words = [
            generator.integers(1, 29, size=n).tolist() for n in generator.integers(1, 12, 20_000)
        ]
        lexicon = build_lexicon(words, range(20_000), 29)
        assert (lexicon["word"] >= 0).sum() == len({tuple(word) for word in words})
        for word in words[::1000]:
            assert lexicon[walk(lexicon, word)[-1]]["word"] == words.index(word)


class TestLookAhead:
    @pytest.mark.slow
    @given(
        spellings(),
        st.lists(st.floats(-20, 0), min_size=10, max_size=10),
        st.sampled_from([0.0, 0.4, 1.0, 2.5]),
        st.floats(-10, 5),
    )
    @settings(deadline=None, max_examples=200)
    def test_factors_multiply_to_the_word_or_the_unknown_word(
        self,
        given_words: tuple[list[list[int]], list[int], int],
        log_probs: list[float],
        alpha: float,
        unknown: float,
    ) -> None:
        words, ids, symbols = given_words
        plain = build_lexicon(words, ids, symbols)
        untouched = plain.copy()
        lexicon = look_ahead(plain, np.array(log_probs), alpha, -9.0, unknown)
        assert (plain == untouched).all()
        for name in ("mask", "first_child", "children", "symbol", "word"):
            assert (lexicon[name] == plain[name]).all()
        for word in words:
            nodes = walk(lexicon, word)
            for end in range(1, len(nodes)):
                ahead = math.prod(float(lexicon[node]["enter"]) for node in nodes[1 : end + 1])
                beginning = word[:end]
                best = max(
                    alpha * log_probs[int(plain[walk(plain, other)[-1]]["word"])]
                    for other in words
                    if other[:end] == beginning
                )
                assert math.log(ahead) == pytest.approx(best, abs=1e-9)
                assert ahead <= 1 + 1e-12
                node = lexicon[nodes[end]]
                assert math.log(ahead) - node["ahead"] == pytest.approx(0.0, abs=1e-9)
                price = alpha * -9.0 + unknown
                assert math.log(ahead * node["leave"]) == pytest.approx(price, abs=1e-9)
        root = lexicon[0]
        assert math.log(root["leave"]) == pytest.approx(alpha * -9.0 + unknown, abs=1e-9)

    def test_an_empty_lexicon_charges_for_unknown_words(self) -> None:
        lexicon = look_ahead(build_lexicon([], [], 5), np.zeros(1), 0.5, -4.0, -1.0)
        assert lexicon[0]["leave"] == pytest.approx(math.exp(-3.0))


class TestSpell:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["ab", "c"], ["ab", "c"]),
            (["AB", "c", "Ca"], ["c", "AB:ab", "Ca:ca"]),
            (["AB", "ab"], ["ab", "AB:ab"]),
            (["x", "a b", "a1", "<s>", BLANK, "aé"], []),
            ([], []),
        ],
    )
    def test_the_given_case_comes_before_lower_case(
        self, words: list[str], expected: list[str]
    ) -> None:
        found, places = spell(words, VOCABULARY)
        assert [
            words[place] if words[place] == (text := VOCABULARY.decode(one)) else
            f"{words[place]}:{text}"
            for one, place in zip(found, places, strict=True)
        ] == expected  # fmt: skip
        assert places.dtype == np.int64

    def test_upper_case_if_the_vocabulary_has_no_lower_case(self) -> None:
        vocabulary = Vocabulary.from_list([BLANK, " ", "A", "B", "c", "İ"])
        found, places = spell(["ab", "Ab", "AB", "c", "Ac", "İ"], vocabulary)
        texts = ["".join(vocabulary.symbols[symbol] for symbol in one) for one in found]
        assert dict(zip(places.tolist(), texts, strict=True)) == {
            0: "AB", 1: "AB", 2: "AB", 3: "c", 4: "Ac", 5: "İ",
        }  # fmt: skip
        assert places.tolist()[0] == 2  # as it is goes first

    def test_lower_case_before_upper_case(self) -> None:
        assert spell(["ǅ"], Vocabulary.from_list([BLANK, "Ǆ", "ǆ"]))[0] == [[2]]

    def test_the_given_case_comes_before_both(self) -> None:
        vocabulary = Vocabulary.from_list([BLANK, *"abABc"])
        assert spell(["Ca", "cA", "aB"], vocabulary)[0] == [[5, 3], [1, 4], [5, 1]]

    @given(st.lists(st.text("abcABC xé")))
    @settings(deadline=None)
    def test_equals_the_definition(self, words: list[str]) -> None:
        letters = set("abc")
        as_they_are = [(w, p) for p, w in enumerate(words) if set(w) <= letters]
        lower = [
            (w.lower(), p)
            for p, w in enumerate(words)
            if not set(w) <= letters and set(w.lower()) <= letters
        ]
        found, places = spell(words, VOCABULARY)
        texts = ["".join(VOCABULARY.symbols[symbol] for symbol in one) for one in found]
        assert list(zip(texts, places.tolist(), strict=True)) == as_they_are + lower


def occurrences(text: str, phrase: str) -> int:
    """The number of occurrences of `phrase` in `text`, including overlapping ones."""
    words, wanted = text.split(" "), phrase.split(" ")
    return sum(
        words[start : start + len(wanted)] == wanted
        for start in range(len(words) - len(wanted) + 1)
    )


def log_factors(hotwords: Hotwords, text: str) -> list[float]:
    """The logarithm of the product of all factors after each symbol."""
    state, total, totals = 0, 0.0, []
    for symbol in VOCABULARY.encode(text):
        left = hotwords.factors[state, 1]
        state = int(hotwords.move[state, hotwords.column[symbol]])
        step = float(left * hotwords.factors[state, 0])
        assert step <= hotwords.boost * (1 + 1e-12)
        total += math.log(step)
        totals.append(total)
    return [*totals, total + math.log(hotwords.factors[state, 1])]


PHRASE = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4).map(" ".join)
SHORT_PHRASE = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map(" ".join)
WEIGHTS = st.dictionaries(st.one_of(PHRASE, SHORT_PHRASE), st.floats(-8, 12), max_size=8)
TEXT = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=12).map(" ".join)


class TestHotwords:
    @pytest.mark.slow
    @given(WEIGHTS, st.one_of(TEXT, PHRASE))
    @settings(deadline=None, max_examples=500)
    def test_each_occurrence_of_whole_words_counts(
        self, weights: dict[str, float], text: str
    ) -> None:
        expected = sum(
            occurrences(text, phrase) * weight * len(phrase.split())
            for phrase, weight in weights.items()
        )
        hotwords = build_hotwords(weights, VOCABULARY)
        assert log_factors(hotwords, text + " ")[-1] == pytest.approx(expected, abs=1e-8)
        # The advance for an incomplete word is taken back.
        inside = text.rpartition(" ")[0]
        expected = sum(
            occurrences(inside, phrase) * weight * len(phrase.split())
            for phrase, weight in weights.items()
        )
        assert log_factors(hotwords, text)[-1] == pytest.approx(expected, abs=1e-8)

    @given(WEIGHTS, TEXT)
    @settings(deadline=None, max_examples=200)
    def test_the_state_depends_on_the_last_words_only(
        self, weights: dict[str, float], text: str
    ) -> None:
        """A word that no phrase has leads back to the initial state."""
        hotwords = build_hotwords(weights, VOCABULARY)
        assume(not any("cccc" in phrase.split() for phrase in weights))
        state = 0
        for symbol in VOCABULARY.encode(text + " cccc"):
            state = int(hotwords.move[state, hotwords.column[symbol]])
        assert state == 1
        assert hotwords.move[state, hotwords.column[VOCABULARY.space]] == 0
        assert hotwords.factors[:2].tolist() == [[1, 1], [1, 1]]

    def test_bonuses_are_advanced_in_equal_parts(self) -> None:
        hotwords = build_hotwords({"ab c": 2.5}, VOCABULARY)  # 5 nats over 5 symbols
        assert log_factors(hotwords, "ab c ")[:5] == pytest.approx([1, 2, 3, 4, 5])
        assert log_factors(hotwords, "ab a ")[:5] == pytest.approx([1, 2, 3, 1, 0])
        assert log_factors(hotwords, "aab c") == pytest.approx([1, 0, 0, 0, 0, 0])
        assert hotwords.boost == pytest.approx(math.e)

    def test_a_state_advances_the_largest_bonus_of_its_phrases(self) -> None:
        hotwords = build_hotwords({"abb": 4.0, "aba": 8.0, "a": -4.0}, VOCABULARY)
        assert log_factors(hotwords, "aba ")[:4] == pytest.approx([2, 4, 6, 8])
        assert log_factors(hotwords, "abb ")[:4] == pytest.approx([2, 4, 3, 4])
        assert log_factors(hotwords, "a b")[:3] == pytest.approx([2, -4, -4])

    def test_boost_is_the_largest_factor_of_a_step(self) -> None:
        weights = {"a": 3.0, "ab": -2.0, "b a": 5.0, "a a": 1.0}
        hotwords = build_hotwords(weights, VOCABULARY)
        texts = map(" ".join, itertools.product(["a", "b", "ab", "ba", "c"], repeat=3))
        steps = [np.diff([0, *log_factors(hotwords, text + " ")[:-1]]).max() for text in texts]
        assert math.log(hotwords.boost) == pytest.approx(max(steps))
        assert build_hotwords({"a": -1.0}, VOCABULARY).boost >= 1

    def test_arrays_have_the_documented_shapes(self) -> None:
        hotwords = build_hotwords({"a b": 1.0, "ac": 2.0}, VOCABULARY)
        states = len(hotwords.move)
        assert states == 2 + len({"a", "a ", "a b", "a b ", "ac", "ac "})
        assert hotwords.factors.shape == (states, 2)
        assert hotwords.column.shape == (len(VOCABULARY),)
        assert hotwords.move.shape == (states, 1 + len(" abc"))
        assert hotwords.move.dtype == hotwords.column.dtype == np.int32
        assert hotwords.factors.dtype == np.float64

    @pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
    def test_weights_are_finite(self, weight: float) -> None:
        with pytest.raises(ConfigError, match="'a b' is"):
            build_hotwords({"a b": weight}, VOCABULARY)

    def test_phrases_that_cannot_be_spelled_are_rejected_by_name(self) -> None:
        with pytest.raises(TextError, match=r"hotword 'abx\?' contains 'x' .*'\?'"):
            build_hotwords({"ab": 1.0, "abx?": 1.0}, VOCABULARY)
        with pytest.raises(TextError, match="hotword '' has empty text"):
            build_hotwords({"": 1.0}, VOCABULARY)
        with pytest.raises(ConfigError, match="with a space"):
            build_hotwords({"a": 1.0}, Vocabulary.from_list([BLANK, "a"]))


class TestFiles:
    def test_words_are_the_first_field_of_each_line_in_plain_form(self, tmp_path: Path) -> None:
        path = tmp_path / "lexicon.txt"
        path.write_text("\ufeffHELLO  HH AH L OW\n\n cat\tK AE T\r\nhello\nDoG\n  \n", "utf-8")
        assert read_words(path) == ["hello", "cat", "dog"]

    def test_hotwords_have_the_weight_of_their_line_or_the_default(self, tmp_path: Path) -> None:
        path = tmp_path / "hot.txt"
        path.write_text("New York\nAnna\t7.5\r\n  bad word \t-2\n\n", "utf-8")
        assert read_hotwords(path, 3.0) == {"new york": 3.0, "anna": 7.5, "bad word": -2.0}
        path.write_text("# names\nAnna\t7.5\n  # more: of places\n#\nYork\n#1 fan\n")
        assert read_hotwords(path, 3.0) == {"anna": 7.5, "york": 3.0, "#1 fan": 3.0}

    def test_invalid_weights_are_reported_with_their_line(self, tmp_path: Path) -> None:
        path = tmp_path / "hot.txt"
        path.write_text("anna\n\nbert\theavy\n", "utf-8")
        with pytest.raises(DataError, match=r"line 3 of .*hot\.txt has the weight 'heavy'"):
            read_hotwords(path, 3.0)

    def test_what_is_too_long_for_a_word_costs_nothing(self) -> None:
        words = ["ab"] * 1000 + ["a" * 10**6, "c" * 100]
        spellings, places = spell(words, VOCABULARY)
        assert max(map(len, spellings)) == 100
        assert 1000 not in places
        assert places[-1] == 1001

    def test_unreadable_files_are_reported_by_name(self, tmp_path: Path) -> None:
        empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
        empty.write_text("\n \n")
        binary.write_bytes(b"\xff\xfe\x00a")
        for read in (read_words, lambda path: read_hotwords(path, 1.0)):
            with pytest.raises(DataError, match=r"empty\.txt contains no words"):
                read(empty)
            with pytest.raises(DataError, match=r"binary\.txt, line 1 is not UTF-8"):
                read(binary)
            with pytest.raises(DataError, match="cannot be read"):
                read(tmp_path)
            with pytest.raises(DataError, match=r"missing\.txt cannot be read"):
                read(tmp_path / "missing.txt")

    def test_a_line_with_only_a_weight_is_rejected(self, tmp_path: Path) -> None:
        path = tmp_path / "hot.txt"
        path.write_text("anna\n\t5\n", "utf-8")
        with pytest.raises(AsrError, match="line 2"):
            read_hotwords(path, 1.0)
