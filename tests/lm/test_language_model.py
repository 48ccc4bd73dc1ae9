"""N-gram models, against hand-made sums, a slow dictionary and KenLM."""

import gzip
import math
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ngrams import HAND, Entries, arpa_text, assert_same, log10_slowly, models, read, tables
from project import ROOT

from asr.errors import FileError, LanguageError
from asr.lm import arpa
from asr.lm import model as language
from asr.lm.model import LanguageModel
from asr.lm.ngrams import LN10, NGramTable, query


@pytest.fixture
def hand(tmp_path: Path) -> LanguageModel:
    return read(tmp_path, HAND)


class TestScores:
    @pytest.mark.parametrize(
        ("sentence", "log10"),
        [
            ("", -0.5 - 1.0),
            ("a", -0.4 - 0.0625 - 0.25 - 1.0),
            ("a b", -0.4 - 0.1 - 0.03125 - 0.125 - 1.0),
            ("a b b", -0.4 - 0.1 - 0.03125 - 0.6 - 0.125 - 1.0),
            ("b a", -0.5 - 0.9 - 0.125 - 0.7 - 0.25 - 1.0),
            ("c", -0.5 - 2.0 - 1.0),
            ("a c  b", -0.4 - 0.0625 - 0.25 - 2.0 - 0.9 - 0.125 - 1.0),
        ],
    )
    def test_by_hand(self, hand: LanguageModel, sentence: str, log10: float) -> None:
        assert hand.score(sentence) / LN10 == pytest.approx(log10, abs=1e-6)

    def test_states_by_hand(self, hand: LanguageModel) -> None:
        a, b = hand.word_id("a"), hand.word_id("b")
        assert query(hand.ngrams, 0, a)[1] == a + 1  # the unigram a has children
        log_prob, state = query(hand.ngrams, a + 1, b)
        assert log_prob / LN10 == pytest.approx(-0.3)
        assert state > len(hand.words)  # the bigram a b has a back-off
        # b b has neither children nor a back-off; of <s> a b nothing beyond a b is remembered.
        assert query(hand.ngrams, b + 1, b)[1] == b + 1
        after_a = query(hand.ngrams, hand.begin_state, a)[1]
        assert query(hand.ngrams, after_a, b)[1] == state
        assert query(hand.ngrams, after_a, hand.end_word)[1] == 0

    @pytest.mark.slow
    @given(models())
    @settings(deadline=None, max_examples=150)
    def test_equals_the_definition(self, model: tuple[Entries, int, random.Random]) -> None:
        entries, order, generator = model
        words = ["<unk>", *(gram[0] for gram in entries if len(gram) == 1 and gram != ("<unk>",))]
        ours = LanguageModel.from_ngrams(words, tables(entries, order, words))
        for start, state in [("<s>", ours.begin_state), ("", 0)]:
            history = [start] if start else []
            for word in generator.choices([*words, "never seen"], k=30):
                context = tuple(history[max(0, len(history) - order + 1) :])
                known = word if word in words else "<unk>"
                log_prob, state = query(ours.ngrams, state, ours.word_id(word))
                expected = log10_slowly(entries, context, known)
                assert log_prob / LN10 == pytest.approx(expected, abs=2e-5)
                history.append(known)
                assert 0 <= state < len(ours.ngrams.first_child) - 1

    @given(models())
    @settings(deadline=None, max_examples=50)
    def test_equal_contexts_share_a_state(self, model: tuple[Entries, int, random.Random]) -> None:
        """The state of a history depends only on its longest live suffix."""
        entries, order, generator = model
        words = ["<unk>", *(gram[0] for gram in entries if len(gram) == 1 and gram != ("<unk>",))]
        ours = LanguageModel.from_ngrams(words, tables(entries, order, words))
        live = {gram for gram, (_, backoff) in entries.items() if backoff and len(gram) < order}
        live |= {gram[:k] for gram in entries for k in range(1, len(gram))}
        seen: dict[tuple[str, ...], int] = {}
        state, history = 0, ()
        for word in generator.choices(words, k=60):
            history = (*history, word)
            _, state = query(ours.ngrams, state, ours.word_id(word))
            suffixes = [history[k:] for k in range(len(history))]
            longest = next((gram for gram in suffixes if gram in live), ())
            assert seen.setdefault(longest, state) == state
        assert len(set(seen.values())) == len(seen)

    def test_equals_kenlm(self, shared: Path) -> None:
        with gzip.open(shared / "text/books.txt.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        sentences = lines[:: len(lines) // 10_000][:10_000]
        expected = np.load(ROOT / "tests/data/kenlm-scores.npz")["log10"]
        model = LanguageModel.read(shared / "decoder_bench/lm3.arpa.gz")
        scores = np.array([model.score(sentence) for sentence in sentences]) / LN10
        assert np.abs(scores - expected).max() <= 1e-4
        # A third hold unknown words; KenLM's perplexity of the eighth is 880.9338.
        assert model.perplexity(sentences[7:8]).perplexity == pytest.approx(880.9338, rel=1e-6)
        total = model.perplexity(sentences)
        assert math.log(total.perplexity) * total.words == pytest.approx(-scores.sum() * LN10)


class TestPerplexity:
    def test_by_hand(self, hand: LanguageModel) -> None:
        measured = hand.perplexity(["a b", "c"])
        known = 0.4 + 0.1 + 0.03125 + 0.125 + 1.0 + 1.0
        assert (measured.words, measured.unknown, measured.sentences) == (5, 1, 2)
        assert measured.perplexity == pytest.approx(10 ** ((known + 0.5 + 2.0) / 5), rel=1e-5)
        assert measured.perplexity_known == pytest.approx(10 ** (known / 4), rel=1e-5)

    def test_batches_do_not_matter(
        self, hand: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sentences = ["a b", "c", "", "b b a", "a"]
        whole = hand.perplexity(sentences)
        monkeypatch.setattr(language, "_BATCH_SENTENCES", 2)
        parts = hand.perplexity(iter(sentences))
        assert parts.perplexity == pytest.approx(whole.perplexity)
        assert (parts.words, parts.unknown, parts.sentences) == (12, 1, 5)

    def test_an_overflow_is_infinite(self, tmp_path: Path) -> None:
        model = read(tmp_path, HAND.replace("-2.0\t<unk>", "-9999\t<unk>"))
        assert model.perplexity(["c"]).perplexity == math.inf

    def test_no_sentences_are_rejected(self, hand: LanguageModel) -> None:
        with pytest.raises(LanguageError, match="no sentences"):
            hand.perplexity([])


class TestInvalid:
    def test_files_that_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(LanguageError, match=r"nowhere.*No such file"):
            LanguageModel.read(tmp_path / "nowhere")
        with pytest.raises(LanguageError, match="Is a directory"):
            LanguageModel.read(tmp_path)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["<unk>", "<s>", "a"], "lack </s>"),
            (["<s>", "<unk>", "</s>"], "word 0 .* is '<s>'; it must be <unk>"),
            (["<unk>", "<s>", "</s>", "a", "a"], "'a' occurs 2 times"),
            (["<unk>", "<s>", "</s>", "a b"], "'a b' cannot be a word"),
            (["<unk>", "<s>", "</s>", ""], "'' cannot be a word"),
        ],
    )
    def test_invalid_words_are_rejected(self, words: list[str], message: str) -> None:
        ids = np.arange(len(words), dtype=np.int32)[:, None]
        unigrams = NGramTable(ids, np.full(len(words), -1, np.float32), None)
        with pytest.raises(LanguageError, match=message):
            LanguageModel.from_ngrams(words, [unigrams])

    @pytest.mark.parametrize(
        ("ids", "log_probs", "backoffs", "message"),
        [
            ([[0, 1], [0, 3]], [-1, -1], None, "ids that are not 0 to 2"),
            ([[0, 1], [-1, 2]], [-1, -1], None, "ids that are not 0 to 2"),
            ([[0, 1], [2, 2]], [-1, 0.5], None, r"row 1 .* 2-grams has .* 0\.5"),
            ([[0, 1], [2, 2]], [np.nan, -1], None, "row 0 .* 2-grams has .* nan"),
            ([[0, 1], [2, 2]], [-np.inf, -1], None, "row 0 .* 2-grams has .* -inf"),
            ([[0, 1], [2, 2]], [-1, -1], [0, np.nan], "row 1 .* 2-grams has the back-off nan"),
            ([[0, 1], [2, 2]], [-1, -1], [0], r"not \(2, 2\) and 1"),
            ([[0], [1]], [-1, -1], None, r"needs words of shape \(2, 2\) .* not \(2, 1\)"),
            ([[2, 1], [0, 0], [2, 1]], [-1, -1, -1], None, "row 2 .* repeats .* row 0 "),
        ],
    )
    def test_invalid_tables_are_rejected(self, ids, log_probs, backoffs, message: str) -> None:
        unigrams = NGramTable(
            np.arange(3, dtype=np.int32)[:, None],
            np.full(3, -1, np.float32),
            np.zeros(3, np.float32),
        )
        bigrams = NGramTable(
            np.array(ids, np.int32),
            np.array(log_probs, np.float32),
            None if backoffs is None else np.array(backoffs, np.float32),
        )
        with pytest.raises(LanguageError, match=message):
            LanguageModel.from_ngrams(["<unk>", "<s>", "</s>"], [unigrams, bigrams])

    def test_tables_that_lack_a_unigram(self) -> None:
        unigrams = NGramTable(np.array([[1]], np.int32), np.array([-1], np.float32), None)
        with pytest.raises(LanguageError, match="word 2 has no unigram"):
            LanguageModel.from_ngrams(["<unk>", "<s>", "</s>"], [unigrams])
        with pytest.raises(LanguageError, match="a table of unigrams"):
            LanguageModel.from_ngrams(["<unk>", "<s>", "</s>"], [])


class TestFiles:
    @given(models(), st.booleans())
    @settings(
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_arpa_to_binary_to_arpa(
        self, tmp_path: Path, model: tuple[Entries, int, random.Random], quantize: bool
    ) -> None:
        entries, order, generator = model
        first = read(tmp_path, arpa_text(entries, order, generator))
        first.write(tmp_path / "model.lm", quantize=quantize)
        second = LanguageModel.read(tmp_path / "model.lm")
        if not quantize:
            assert_same(second, first)
        second.write_arpa(tmp_path / "again.arpa")
        # So few different numbers are all in the books, so that nothing is lost.
        third = LanguageModel.read(tmp_path / "again.arpa")
        assert_same(third, first)
        written = {}
        for line in (tmp_path / "again.arpa").read_text().splitlines():
            if line.startswith(("-", "0")):
                log_prob, gram, *backoff = line.split("\t")
                written[tuple(gram.split())] = (float(log_prob), float((backoff or ["0"])[0]))
        for gram, numbers in entries.items():
            assert written[gram] == pytest.approx(numbers, abs=1e-6)
        assert len(written) == sum(first.counts)

    def test_arrays_have_the_layout_that_compiled_code_needs(
        self, tmp_path: Path, hand: LanguageModel
    ) -> None:
        hand.write(tmp_path / "plain.lm")
        hand.write(tmp_path / "coded.lm", quantize=True)
        mapped = [LanguageModel.read(tmp_path / name) for name in ["plain.lm", "coded.lm"]]
        kinds = "int32 int32 int32 float32 float32 uint16 uint16 float32 float32".split()
        for model in [hand, *mapped]:
            assert math.isfinite(model.score("a b"))
            model.write_arpa(tmp_path / "model.arpa")
            assert [str(array.dtype) for array in model.ngrams] == kinds
            for array in model.ngrams:
                assert type(array) is np.ndarray
                assert array.ndim == 1
                assert array.flags.writeable
                assert array.flags.aligned
                assert array.flags.c_contiguous
        for model in mapped:
            assert all(array.ctypes.data % 64 == 0 for array in model.ngrams if len(array))
        for kernel in (language._score_words, arpa._print_ngrams, arpa._parse_ngrams):
            assert len(kernel.signatures) == 1, "compiled more than once"

    def test_changing_a_mapped_model_does_not_change_its_file(
        self, tmp_path: Path, hand: LanguageModel
    ) -> None:
        hand.write(tmp_path / "model.lm")
        before = (tmp_path / "model.lm").read_bytes()
        mapped = LanguageModel.read(tmp_path / "model.lm")
        mapped.ngrams.log_prob[:] = 0
        assert (tmp_path / "model.lm").read_bytes() == before
        hand.write(tmp_path / "model.lm")  # and so does writing a new one beneath it
        assert not mapped.ngrams.log_prob.any()

    @pytest.mark.parametrize("quantize", [False, True])
    def test_every_truncation_of_a_binary_is_detected(
        self, tmp_path: Path, hand: LanguageModel, quantize: bool
    ) -> None:
        hand.write(tmp_path / "model.lm", quantize)
        whole = (tmp_path / "model.lm").read_bytes()
        for size in [*range(0, 130), *range(130, len(whole), 17), len(whole) - 1]:
            (tmp_path / "cut.lm").write_bytes(whole[:size])
            with pytest.raises(LanguageError, match=r"cut\.lm "):
                LanguageModel.read(tmp_path / "cut.lm")
        (tmp_path / "cut.lm").write_bytes(whole + b"\0")
        with pytest.raises(LanguageError, match=r"cut\.lm is truncated or damaged"):
            LanguageModel.read(tmp_path / "cut.lm")

    def test_foreign_and_damaged_binaries(self, tmp_path: Path, hand: LanguageModel) -> None:
        path = tmp_path / "model.lm"
        hand.write(path)
        whole = path.read_bytes()
        for start, piece, message in [
            (8, b"\2", "format version 2, but this asr reads version 1"),
            (12, b"\2", "do not form a tree"),
            (12, b"\0", "do not form a tree"),
            (12, b"\5", "do not form a tree"),
            (16, b"\1", "do not form a tree"),
            (17, b"\1", "header counts"),
            (23, b"\xff", "header counts"),
            (64, bytes(len(whole) - 64), "do not form a tree"),
            (len(whole) - 1, b"\xff", "are not UTF-8 text"),
            (0, b"A", r"no \\data\\ line"),
        ]:
            # Files of earlier versions have no checksum.
            whole = whole[:56] + bytes(8) + whole[64:]
            path.write_bytes(whole[:start] + piece + whole[start + len(piece) :])
            with pytest.raises(LanguageError, match=message):
                LanguageModel.read(path)

    @pytest.mark.parametrize("quantize", [False, True])
    def test_every_damaged_byte_is_detected(
        self, tmp_path: Path, hand: LanguageModel, quantize: bool
    ) -> None:
        path = tmp_path / "model.lm"
        hand.write(path, quantize)
        whole = path.read_bytes()
        for at in [*range(8, 64), *range(64, len(whole), 7)]:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            with pytest.raises(LanguageError, match=r"model\.lm "):
                LanguageModel.read(path)

    @pytest.mark.parametrize("quantize", [False, True])
    def test_damage_of_a_file_without_a_checksum_is_harmless(
        self, tmp_path: Path, hand: LanguageModel, quantize: bool
    ) -> None:
        """Files of earlier versions have no checksum; damage is found, or only changes numbers."""
        path = tmp_path / "model.lm"
        hand.write(path, quantize)
        whole = path.read_bytes()
        generator = random.Random(3)
        read = 0
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[56:64] = bytes(8)
            start = generator.randrange(12, len(whole))
            for at in range(start, min(start + generator.choice([1, 4]), len(whole))):
                damaged[at] = generator.choice([0, 1, 2, 5, 127, 128, 255])
            path.write_bytes(damaged)
            try:
                model = LanguageModel.read(path)
            except LanguageError:
                continue
            read += 1
            assert math.isfinite(model.score("a b b a </s> <s> c"))
            model.write_arpa(tmp_path / "again.arpa")
        assert read

    def test_quantization_preserves_the_perplexity(self, shared: Path, tmp_path: Path) -> None:
        with gzip.open(shared / "text/books.txt.gz", "rt", encoding="utf-8") as file:
            sentences = list(islice(file, 0, 400_000, 200))
        model = LanguageModel.read(shared / "decoder_bench/lm3.arpa.gz")
        model.write(tmp_path / "plain.lm")
        model.write(tmp_path / "coded.lm", quantize=True)
        coded = LanguageModel.read(tmp_path / "coded.lm")
        exact, near = model.perplexity(sentences), coded.perplexity(sentences)
        assert near.perplexity == pytest.approx(exact.perplexity, rel=5e-3)
        assert near.perplexity_known == pytest.approx(exact.perplexity_known, rel=5e-3)
        sizes = [(tmp_path / name).stat().st_size for name in ["coded.lm", "plain.lm"]]
        assert sizes[0] < 0.9 * sizes[1]
        coded.write(tmp_path / "twice.lm", quantize=True)
        assert (tmp_path / "twice.lm").read_bytes() == (tmp_path / "coded.lm").read_bytes()

    def test_quantization_distinguishes_adjacent_floats(self, tmp_path: Path) -> None:
        count = 1000
        values = -np.arange(1_065_353_216, 1_065_353_216 + count, dtype=np.int32).view(np.float32)
        words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(3, count))]
        ids = np.arange(count, dtype=np.int32)[:, None]
        model = LanguageModel.from_ngrams(words, [NGramTable(ids, values, None)])
        model.write(tmp_path / "coded.lm", quantize=True)
        ngrams = LanguageModel.read(tmp_path / "coded.lm").ngrams
        assert np.array_equal(ngrams.log_prob_book[ngrams.log_prob_code[1:]], values)

    def test_a_failed_write_keeps_the_previous_file(
        self, tmp_path: Path, hand: LanguageModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.lm"
        hand.write(path)
        before = path.read_bytes()

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(language, "write_binary", full)
        with pytest.raises(FileError, match=r"model\.lm could not be written \(No space"):
            hand.write(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir() if entry.name[0] == "."] == []

    def test_a_folder_that_cannot_be_created(self, tmp_path: Path, hand: LanguageModel) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(FileError, match="could not be written"):
            hand.write_arpa(tmp_path / "file" / "model.arpa")
