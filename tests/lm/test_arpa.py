"""ARPA files: what is valid, what is not, and what is written."""

import gzip
import math
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ngrams import HAND, Entries, arpa_text, assert_same, models, read, saved, tables

from asr.errors import LanguageError
from asr.lm import arpa
from asr.lm.model import LanguageModel
from asr.lm.ngrams import LN10, NGramTable


@pytest.fixture
def hand(tmp_path: Path) -> LanguageModel:
    return read(tmp_path, HAND)


class TestReading:
    def test_facts(self, hand: LanguageModel) -> None:
        assert hand.order == 3
        assert hand.counts == (5, 3, 1)
        assert list(hand.words) == ["<unk>", "<s>", "</s>", "a", "b"]
        assert [hand.word_id(word) for word in ["b", "<unk>", "zebra", "A"]] == [4, 0, 0, 0]
        assert (hand.end_word, hand.unknown_word) == (2, 0)

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text.replace("\t", "  "),
            lambda text: text.replace(" ", "\t"),
            lambda text: text.replace("\n", "\n\n"),
            lambda text: text.replace("\n", " \t\n"),
            lambda text: text.replace("\n-", "\n  -"),
            lambda text: "made by hand\n\\1-grams: come later\n" + text,
            lambda text: "\ufeff" + text,
            lambda text: text.replace("=", " = "),
            lambda text: text.rstrip("\n"),
            lambda text: text + "anything\n",
            lambda text: text.replace("<s> a b", "<s> a b\t0"),
            lambda text: text.replace("<unk>", "<unk>\t0.0"),
            lambda text: text.replace("<unk>", "<UNK>"),
            lambda text: text.replace("-0.5", "-5e-1").replace("-0.25", "-.025E+1"),
            lambda text: text.replace("-2.0\t", "-2\t").replace("-1.0\t", "-1.\t"),
            lambda text: text.replace("-0.125", "-0.12500000000000000000000000000000000000"),
            lambda text: text.replace("-0.125", "-000000000000000000000000000000000125e-3"),
            lambda text: text.replace("-0.125", "-125000000000000000000000000000000.0e-33"),
        ],
    )
    def test_equivalent_spellings_of_a_file_give_the_same_model(
        self, tmp_path: Path, change, hand
    ) -> None:
        text = change(HAND)
        assert text != HAND
        assert_same(read(tmp_path, text), hand)
        assert_same(read(tmp_path, gzip.compress(text.encode())), hand)

    def test_a_missing_unk_gets_the_probability_of_kenlm(self, tmp_path: Path) -> None:
        text = HAND.replace("-2.0\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")
        model = read(tmp_path, text)
        assert model.words[0] == "<unk>"
        assert model.score("c") / LN10 == pytest.approx(-0.5 - 100 - 1)

    def test_unk_may_be_any_unigram(self, tmp_path: Path) -> None:
        lines = HAND.splitlines()
        lines.insert(10, lines.pop(6))
        moved = read(tmp_path, "\n".join(lines))
        assert list(moved.words) == ["<unk>", "<s>", "</s>", "a", "b"]
        assert moved.score("a b c") == pytest.approx(read(tmp_path, HAND).score("a b c"))

    def test_words_of_any_alphabet(self, tmp_path: Path) -> None:
        text = HAND.replace("\ta\t", "\tмир\u00a0\t").replace(" a", " мир\u00a0")
        text = text.replace("a b", "мир\u00a0 b")
        model = read(tmp_path, text)
        assert model.words[3] == "мир\u00a0"

    def test_orders_without_ngrams(self, tmp_path: Path) -> None:
        empty = "".join(HAND.partition("ngram 2")[:1]) + "ngram 2=0\nngram 3=0\n"
        empty += HAND[HAND.index("\\1-grams:") : HAND.index("\\2-grams:")]
        model = read(tmp_path, empty + "\\2-grams:\n\\3-grams:\n\\end\\\n")
        assert model.counts == (5, 0, 0)
        assert model.score("a b") / LN10 == pytest.approx(-0.5 - 0.7 - 0.25 - 0.9 - 0.125 - 1)

    @given(models(), st.integers(1, 200))
    @settings(
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_results_are_independent_of_the_block_size(
        self, tmp_path: Path, model: tuple[Entries, int, random.Random], block_bytes: int
    ) -> None:
        entries, order, generator = model
        path = saved(tmp_path, arpa_text(entries, order, generator))
        whole = LanguageModel.read(path)
        assert sum(whole.counts) >= len(entries)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arpa, "_BLOCK_BYTES", block_bytes)
            assert_same(LanguageModel.read(path), whole)
            path.write_bytes(gzip.compress(path.read_bytes()))
            assert_same(LanguageModel.read(path), whole)

    @given(models())
    @settings(
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_equals_the_tables(
        self, tmp_path: Path, model: tuple[Entries, int, random.Random]
    ) -> None:
        entries, order, generator = model
        from_file = read(tmp_path, arpa_text(entries, order, generator))
        assert_same(
            LanguageModel.from_ngrams(
                from_file.words,
                tables(entries, order, list(from_file.words)),
            ),
            from_file,
        )

    def test_many_words_keep_their_ids(self, tmp_path: Path) -> None:
        words = ["<s>", "</s>", *(f"{index:b}" for index in range(5000))]
        lines = [f"-{index / 1000:.3f} {word}" for index, word in enumerate(words)]
        pairs = [f"-0.5 {word} {other}" for word, other in pairwise(words)]
        text = ["\\data\\", f"ngram 1={len(words)}", f"ngram 2={len(pairs)}", "\\1-grams:", *lines]
        model = read(tmp_path, "\n".join([*text, "\\2-grams:", *pairs, "\\end\\"]))
        ids = np.arange(1, len(words) + 1)
        assert [model.word_id(word) for word in words] == ids.tolist()
        expected = [-index / 1000 * LN10 for index in range(len(words))]
        assert model.ngrams.log_prob[2 : len(words) + 2] == pytest.approx(expected, abs=1e-6)
        assert model.ngrams.word[len(words) + 2 :].tolist() == ids[1:].tolist()

    @given(st.lists(st.floats(-400_000, 400_000), min_size=1, max_size=50), st.data())
    @settings(
        deadline=None,
        max_examples=100,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_numbers_are_parsed_as_python_parses_them(
        self, tmp_path: Path, numbers: list[float], data: st.DataObject
    ) -> None:
        spelled = [
            data.draw(st.sampled_from([repr, "{:e}".format, "{:.3f}".format, "{:+.17g}".format]))(n)
            for n in numbers
        ]
        lines = "".join(f"-1 w{index} {text}\n" for index, text in enumerate(spelled))
        text = (
            f"\\data\\\nngram 1={len(numbers) + 2}\nngram 2=0\n\\1-grams:\n-1 <s>\n-1 </s>\n{lines}"
        )
        model = read(tmp_path, text + "\\2-grams:\n\\end\\\n")
        expected = np.array([float(text) * LN10 for text in spelled])
        assert model.ngrams.backoff[4:] == pytest.approx(expected, rel=1e-7, abs=1e-30)


class TestInvalid:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: "", "is empty"),
            (lambda t: t.replace("\\data\\", "data"), r"no \\data\\ line"),
            (lambda t: "RIFF\0\0\1" * 300_000, r"no \\data\\ line"),
            (lambda t: t.replace("1=5", "1=6"), "line 13 .*1-grams after 5, .*header counts 6"),
            (lambda t: t.replace("1=5", "1=4"), "line 11 .*1-gram more than the 4"),
            (lambda t: t.replace("3=1", "3=2"), "line 21 .*3-grams after 1, .*header counts 2"),
            (lambda t: t.replace("2=3", "2=2"), "line 16 .*2-gram more than the 2"),
            (lambda t: t.replace("1=5", "1=999999999999999999"), "line 6 .* 1000000000000000003 n"),
            (lambda t: t.replace("1=5", "1=2000000000"), "line 13 .*counts 2000000000|memory"),
            (lambda t: t.replace("ngram 2=3\n", ""), "line 3 .*counts 3-grams, but 2-grams"),
            (lambda t: t.replace("ngram 3=1\n", ""), "line 13 .*'-0.0625', but 2-grams are the high"),
            (lambda t: t[: t.index("ngram 3")] + t[t.index("\n\\1") :].replace("a\t-0.0625", "a")
             .replace("a b\t-0.03125", "a b"), r"line 17 .*3-grams:', but '.*end"),
            (lambda t: t.replace("3=1", "3=1\nngram 4=0"), r"line 22 .*end.*, but .*4-grams:"),
            (lambda t: t.replace("3=1", "3=1x"), "line 4 .*'ngram 3=1x', but .*1-grams:"),
            (lambda t: t.replace("\\2-grams:", "\\5-grams:"), "line 13 .*5-grams:', but .*2-gr"),
            (lambda t: t.replace("\\end\\", ""), r"ends after line 21 without \\end\\\)"),
            (lambda t: t.replace("\\end\\", "\\enD\\"), "line 21 .*enD"),
            (lambda t: t.replace("-0.3\t", "minus\t"), "line 15 .*'minus', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-0.3.1\t"), "line 15 .*'-0.3.1', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-\t"), "line 15 .*'-', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-1e\t"), "line 15 .*'-1e', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "nan\t"), "line 15 .*'nan', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-inf\t"), "line 15 .*'-inf', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-1e999\t"), "line 15 .*'-1e999', but a logarithm"),
            (lambda t: t.replace("-0.3\t", "-1e7\t"), "line 15 .*'-1e7', but a logarithm"),
            (lambda t: t.replace("-0.03125", "1e7"), "line 15 .*'1e7', but a logarithm"),
            (lambda t: t.replace("-0.03125", "x"), "line 15 .*'x', but a logarithm"),
            (lambda t: t.replace("a b\t", "a b b\t"), "line 15 .*'b', but a logarithm"),
            (lambda t: t.replace("-0.03125", "-1 -1"), "line 15 .*2 words and at most one"),
            (lambda t: t.replace("b b", "b"), "line 16 .*2 words and at most one"),
            (lambda t: t.replace("<s> a b", "<s> a b\t-1"), "line 19 .*'-1', but 3-grams"),
            (lambda t: t.replace("b b", "b c"), "line 16 .*'c', .*not among the unigrams"),
            (lambda t: t.replace("-0.6", "0.6"), "line 16 .*'0.6', .*above 0"),
            (lambda t: t.replace("-0.9", "0.001"), "line 11 .*'0.001', .*above 0"),
            (lambda t: t.replace("\tb\t", "\ta\t"), "line 11 .*repeats the unigram 'a'"),
            (lambda t: t.replace("b b", "a b"), "line 16 .* the 2-gram of line 15 "),
            (lambda t: t.replace("\ta\t", "\t<UNK>\t"), "two unigrams for unknown words"),
            (lambda t: t.replace("<s>", "<S>"), "no unigram <s>"),
            (lambda t: t.replace("</s>", "<//s>"), "no unigram </s>"),
            (lambda t: t.encode().replace(b"\ta\t", b"\t\xff\t"), "line 10 .*not UTF-8"),
        ],
    )  # fmt: skip
    def test_broken_files(self, tmp_path: Path, change, message: str) -> None:
        text = change(HAND)
        with pytest.raises(LanguageError, match=message) as error:
            read(tmp_path, text)
        assert "model.arpa" in str(error.value)
        assert "\n" not in str(error.value)
        compressed = gzip.compress(text.encode() if isinstance(text, str) else text)
        with pytest.raises(LanguageError, match=message):
            read(tmp_path, compressed)

    @pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])
    def test_lines_are_counted_across_blank_lines_and_blocks(
        self, tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arpa, "_BLOCK_BYTES", block_bytes)
        repeated = HAND.replace("-0.3", "\n\n-0.3").replace("-0.6\tb b", "\n-0.6\ta b")
        with pytest.raises(LanguageError, match=r"line 19 .* the 2-gram of line 17 "):
            read(tmp_path, repeated)
        with pytest.raises(LanguageError, match=r"line 19 .*'x'"):
            read(tmp_path, repeated.replace("-0.6", "x"))
        with pytest.raises(LanguageError, match=r"line 13 .*not UTF-8"):
            read(tmp_path, HAND.encode().replace(b"-0.9\tb", b"\n\n-0.9\tb\xff"))

    @pytest.mark.parametrize(
        ("before", "endless", "message"),
        [
            ("", "x", r"no .data. line"),
            (HAND[:8], "x", "line 2 of .* is longer than"),
            (HAND[: HAND.index("\ta\t")], "x", "line 10 of .* is longer than"),
            (HAND[: HAND.index("\n-0.7")], "\n", r"is truncated"),
        ],
    )
    def test_lines_without_end_and_blank_lines_without_number(
        self, tmp_path: Path, before: str, endless: str, message: str
    ) -> None:
        text = before.encode() + endless.encode() * 100_000_000
        path = saved(tmp_path, gzip.compress(text, 1), "bomb.arpa.gz")
        del text
        tracemalloc.start()
        try:
            with pytest.raises(LanguageError, match=message):
                LanguageModel.read(path)
            assert tracemalloc.get_traced_memory()[1] < 50_000_000
        finally:
            tracemalloc.stop()

    def test_every_truncation_is_detected(self, tmp_path: Path) -> None:
        for end in range(HAND.index("\\end\\") + len("\\end\\")):
            with pytest.raises(LanguageError):
                read(tmp_path, HAND[:end])

    def test_every_truncation_of_gzip_is_detected(self, tmp_path: Path) -> None:
        whole = gzip.compress(HAND.encode())
        for end in range(2, len(whole)):
            with pytest.raises(LanguageError, match=r"model\.arpa is a truncated or damaged gzip"):
                read(tmp_path, whole[:end])

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        whole = gzip.compress(HAND.encode())
        refused = 0
        for position in range(10, len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            with pytest.raises(LanguageError, match=r"model\.arpa") as error:
                read(tmp_path, bytes(damaged))
            refused += "damaged gzip" in str(error.value)
        assert refused > len(whole) // 2

    @pytest.mark.slow
    @given(st.data())
    @settings(
        deadline=None,
        max_examples=300,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_random_damage_gives_an_error_or_a_valid_model(
        self, tmp_path: Path, data: st.DataObject
    ) -> None:
        text = bytearray(HAND.encode())
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(text) - 1))
            piece = data.draw(
                st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b"\\", b"-"]))
            )
            text[start : start + data.draw(st.integers(0, 3))] = piece
        try:
            model = read(tmp_path, bytes(text))
        except LanguageError:
            return
        assert math.isfinite(model.score("a b c b b a"))


class TestWriting:
    @pytest.mark.slow
    @given(
        st.lists(
            st.floats(-2e5, 2e5, width=32).filter(lambda x: not x or abs(x) > 1e-8), min_size=1
        )
    )
    @settings(
        deadline=None,
        max_examples=200,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_arpa_preserves_every_bit(self, tmp_path: Path, numbers: list[float]) -> None:
        count = len(numbers) + 3
        words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(len(numbers)))]
        values = np.array([-1, 0, -1, *numbers], np.float32)
        unigrams = NGramTable(np.arange(count, dtype=np.int32)[:, None], -np.abs(values), values)
        bigrams = NGramTable(np.array([[1, 2]], np.int32), np.array([0], np.float32), None)
        model = LanguageModel.from_ngrams(words, [unigrams, bigrams])
        model.write_arpa(tmp_path / "model.arpa")
        assert_same(LanguageModel.read(tmp_path / "model.arpa"), model)

    def test_gzip_depends_on_the_name_and_is_deterministic(
        self, tmp_path: Path, hand: LanguageModel
    ) -> None:
        hand.write_arpa(tmp_path / "a.arpa.gz")
        hand.write_arpa(tmp_path / "b.arpa.gz")
        hand.write_arpa(tmp_path / "c.arpa")
        first = (tmp_path / "a.arpa.gz").read_bytes()
        assert first == (tmp_path / "b.arpa.gz").read_bytes()
        assert first[3:8] == bytes(5)  # neither name nor time
        assert gzip.decompress(first) == (tmp_path / "c.arpa").read_bytes()

    def test_long_arpa_in_many_blocks(
        self, tmp_path: Path, hand: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hand.write_arpa(tmp_path / "whole.arpa")
        monkeypatch.setattr(arpa, "_BLOCK_BYTES", 1)
        hand.write_arpa(tmp_path / "pieces.arpa")
        assert (tmp_path / "pieces.arpa").read_text() == (tmp_path / "whole.arpa").read_text()
