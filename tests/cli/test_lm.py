"""`asr lm train | info | perplexity | convert`, through the command line as a user types it."""

import bz2
import gzip
import lzma
import os
import random
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
from commands import RunAsr
from ngrams import HAND, assert_same

from asr import progress
from asr.cli import lm as lm_commands
from asr.lm.estimation import EstimationConfig
from asr.lm.model import LanguageModel


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Enough frequent and rare words for the discounts of four orders to be estimated."""
    generator = random.Random(1)
    words = [f"w{rank}" for rank in range(1, 3000)]
    weights = [rank**-1.4 for rank in range(1, 3000)]
    return [
        " ".join(generator.choices(words, weights, k=generator.randrange(1, 9)))
        for _ in range(2000)
    ]


@pytest.fixture
def text(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    return path


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    path = tmp_path / "hand.arpa"
    path.write_text(HAND)
    return path


def facts(out: str) -> dict[str, str]:
    """The printed lines: names and values are separated by at least two spaces."""
    pairs = (line.split("  ", maxsplit=1) for line in out.splitlines())
    return {name: value.strip() for name, value in pairs}


def last_sentence(err: str) -> str:
    """The error message after lines of progress."""
    *before, last = err.splitlines()
    assert all(line.startswith("training: ") for line in before), err
    assert last.startswith("asr: ")
    assert last.endswith(".")
    return last


class TestTrain:
    @pytest.mark.parametrize(
        ("options", "config"),
        [
            ([], EstimationConfig()),
            (["--order", 2], EstimationConfig(order=2)),
            (["--order", 4, "--prune", 0, 1, 2], EstimationConfig(order=4, prune=[0, 1, 2])),
            (["--vocabulary-limit", 50], EstimationConfig(vocabulary_limit=50)),
        ],
    )
    def test_the_model_is_that_of_the_library(
        self,
        run_asr: RunAsr,
        text: Path,
        sentences: list[str],
        options: list[object],
        config: EstimationConfig,
    ) -> None:
        output = text.with_name("model.lm")
        code, out, err = run_asr("lm", "train", text, "-o", output, *options)
        expected = LanguageModel.estimate(sentences, **asdict(config))
        assert code == 0
        assert_same(LanguageModel.read(output), expected)
        shown = facts(out)
        assert shown.pop("time").endswith(" s")
        assert shown.pop("file").startswith(f"{output} (binary, ")
        words = [word for sentence in sentences for word in sentence.split()]
        assert shown == {
            "sentences": "2,000",
            "words": f"{len(words):,}",
            "vocabulary": f"{config.vocabulary_limit or len(set(words)):,}",
            **{f"{k}-grams": f"{n:,}" for k, n in enumerate(expected.counts, start=1)},
        }
        stages = config.order + 4
        assert err.splitlines()[0] == f"training: 0/{stages} stages (0 %)"
        assert err.splitlines()[1].startswith(f"training: {stages}/{stages} stages (100 %) in ")
        assert len(err.splitlines()) == 2

    @pytest.mark.parametrize("packed", [bz2, gzip, lzma])
    def test_compressed_texts_and_models(
        self, run_asr: RunAsr, hand: Path, packed: ModuleType
    ) -> None:
        hand.write_bytes(packed.compress(hand.read_bytes()))
        code, out, _ = run_asr("lm", "info", hand)
        assert code == 0
        kind = {"bz2": "bzip2", "lzma": "xz"}.get(packed.__name__, "gzip")
        assert facts(out)["kind"] == f"ARPA in {kind}"
        hand.write_bytes(hand.read_bytes()[:-9])
        code, _, err = run_asr("lm", "info", hand)
        assert code == 2
        assert f"is a truncated or damaged {kind} file" in err
        text = hand.with_name("text")
        text.write_bytes(packed.compress(b"one two\ntwo three\n"))
        code, out, _ = run_asr("lm", "train", text, "-o", hand.with_name("new.lm"))
        assert (code, facts(out)["vocabulary"]) == (0, "3")

    RAW = "The old man opened the door, and looked out.\n«Дверь» — café!\n"

    @pytest.mark.parametrize(
        ("options", "words", "said"),
        [
            ([], "the old door out дверь café", "multilingual (5 words changed, 1 dropped)"),
            (["--profile", "english"], "door cafe", "english (5 words changed, 1 dropped)"),
            (["--profile", "plain"], "the door, café!", "plain (2 words changed, 0 dropped)"),
            (["--profile", "none"], "The door, café! «Дверь» —", None),
            (["--checkpoint", "released"], "the door cafe", "english (5 words changed, 1 dropped)"),
        ],
    )
    def test_raw_text_is_normalized_and_the_changes_are_counted(
        self,
        run_asr: RunAsr,
        tmp_path: Path,
        options: list[str],
        words: str,
        said: str | None,
    ) -> None:
        (tmp_path / "raw.txt").write_text(self.RAW, "utf-8")
        output = tmp_path / "raw.arpa"
        code, out, _ = run_asr("lm", "train", tmp_path / "raw.txt", "-o", output, *options)
        assert code == 0
        written = output.read_text("utf-8").split()
        assert [word for word in words.split() if word not in written] == []
        assert facts(out).get("profile") == said
        if "--profile" not in options:
            assert "door," not in written
        if "--checkpoint" in options:
            assert facts(out)["words that the model cannot spell"] == "1, 1 different: дверь"

    def test_texts_of_every_kind(
        self, run_asr: RunAsr, tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = [f"{sentence}\n".encode() for sentence in sentences]
        (tmp_path / "plain.txt").write_bytes(b"".join(lines[:700]))
        (tmp_path / "compressed").write_bytes(gzip.compress(b"".join(lines[700:1500])))
        texts = [tmp_path / "plain.txt", tmp_path / "compressed", "-"]
        output = tmp_path / "model.lm"
        code, out, _ = run_asr("lm", "train", *texts, "-o", output, stdin=b"".join(lines[1500:]))
        assert (code, facts(out)["sentences"]) == (0, "2,000")
        assert_same(LanguageModel.read(tmp_path / "model.lm"), LanguageModel.estimate(sentences))

    @pytest.mark.parametrize(
        ("name", "start", "kind"),
        [
            ("new/folder/model.lm", b"asr lm", "binary"),
            ("model", b"asr lm", "binary"),
            ("model.arpa", b"\\data\\\n", "ARPA"),
            ("model.arpa.gz", b"\x1f\x8b", "ARPA in gzip"),
        ],
    )
    def test_the_name_says_what_is_written(
        self, run_asr: RunAsr, text: Path, sentences: list[str], name: str, start: bytes, kind: str
    ) -> None:
        output = text.parent / name
        code, out, _ = run_asr("lm", "train", text, "-o", output)
        assert code == 0
        assert f"({kind}, " in facts(out)["file"]
        assert output.read_bytes().startswith(start)
        assert_same(LanguageModel.read(output), LanguageModel.estimate(sentences))

    def test_quantized(self, run_asr: RunAsr, text: Path) -> None:
        code, _, _ = run_asr("lm", "train", text, "-o", text.with_name("model.lm"), "--quantize")
        assert code == 0
        assert LanguageModel.read(text.with_name("model.lm")).quantized

    def test_the_stages_are_shown(
        self, run_asr: RunAsr, text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.0)
        monkeypatch.setattr(lm_commands, "MANY_SENTENCES", 1000)
        _, _, err = run_asr("lm", "train", text, "--order", 2, "-o", text.with_name("model.lm"))
        lines = [line.removeprefix("training: ") for line in err.splitlines()]
        assert [(line.split("/")[0], line.split(", ")[-1]) for line in lines[2:-1]] == [
            ("0", "reading the text"),
            ("0", "reading the text: 1,000 sentences"),
            ("0", "reading the text: 2,000 sentences"),
            ("1", "counting 1-grams"),
            ("2", "counting 2-grams"),
            ("3", "computing probabilities"),
            ("4", "arranging the model"),
            ("5", "writing the model"),
            ("6", "done"),
        ]

    def test_a_text_that_is_too_small_is_one_line(self, run_asr: RunAsr, tmp_path: Path) -> None:
        (tmp_path / "small.txt").write_text("the cat sat\n\nthe dog\n")
        for _ in range(2):  # every time, not only the first
            code, out, err = run_asr(
                "lm", "train", tmp_path / "small.txt", "-o", tmp_path / "model.lm"
            )
            assert code == 0
            assert (facts(out)["sentences"], facts(out)["words"]) == ("3", "5")
            assert "too small or too repetitive" in last_sentence(err)
            assert "1-grams, 2-grams, 3-grams" in err

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["text.txt", "--order", 6], "order is 6; it must be a number of words from 1 to 5"),
            (["text.txt", "--prune", 0, 0, 0, 1], "prune is [0, 0, 0, 1], longer than the order"),
            (["text.txt", "--prune", 1], "prune is [1]; it must contain counts that begin with 0"),
            (["text.txt", "--prune", 0, 2, 1], "prune is [0, 2, 1]; it must contain"),
            (["text.txt", "-o", "text.txt"], "text.txt would be written over text.txt"),
            (["text.txt", "-o", "folder/../text.txt"], "text.txt would be written over text.txt"),
            (["text.txt", "-o", "folder"], "folder is a folder or a device"),
            (["text.txt", "-o", os.devnull], f"{os.devnull} is a folder or a device"),
            (["text.txt", "-o", "text.txt/model.lm"], "text.txt/model.lm cannot be written"),
            (
                ["text.txt", "-o", "model.gz"],
                "model.gz would be a binary, which is never compressed",
            ),
            (["text.txt", "-o", "m.arpa", "--quantize"], "m.arpa would be ARPA, which is never"),
            (["-", "-"], "can be read only once"),
            (["text.txt", "none.txt"], "none.txt does not exist"),
            (["folder"], "folder is a folder"),
            (["text.txt", "empty.txt"], "empty.txt contains no word"),
            (["text.txt", "image.txt"], "line 2 of the text image.txt is not UTF-8"),
            (["text.txt", "reserved.txt"], "line 1 of the text reserved.txt contains </s>"),
            (["text.txt", "cut.gz"], "the text cut.gz cannot be read"),
        ],
    )
    def test_what_cannot_be_done(
        self,
        run_asr: RunAsr,
        text: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: list[object],
        named: str,
    ) -> None:
        monkeypatch.chdir(text.parent)
        Path("folder").mkdir()
        Path("empty.txt").write_text(" \n\n")
        Path("image.txt").write_bytes(b"\x89PNG"[1:] + b"\n\xff\xd8")
        Path("reserved.txt").write_text("a </s> b\n")
        Path("cut.gz").write_bytes(gzip.compress(text.read_bytes())[:-20])
        Path("model.lm").write_bytes(b"as it was")
        files = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
        output = [] if "-o" in options else ["-o", "model.lm"]
        code, out, err = run_asr("lm", "train", *options, *output)
        assert (code, out) == (2, "")
        assert named in last_sentence(err)
        assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == files

    def test_texts_beyond_the_memory(
        self, run_asr: RunAsr, text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(LanguageModel, "estimate", refuse)
        code, _, err = run_asr("lm", "train", text, "-o", text.with_name("model.lm"))
        assert code == 2
        assert "do not fit into memory" in last_sentence(err)


class TestInfo:
    def test_a_binary(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        model = LanguageModel.read(hand)
        model.write(tmp_path / "model.lm")
        code, out, err = run_asr("lm", "info", tmp_path / "model.lm")
        assert (code, err) == (0, "")
        size = (tmp_path / "model.lm").stat().st_size
        words = len("<unk>\n<s>\n</s>\na\nb")
        # Each node has 3 numbers of 4 bytes, each below the highest order 2 more, and one more
        # first child ends the list.
        memory = 4 * (3 * (1 + 5 + 3 + 1) + 2 * (1 + 5 + 3) + 1) + words
        assert facts(out) == {
            "kind": "binary",
            "order": "3",
            "vocabulary": "2",
            "1-grams": "5",
            "2-grams": "3",
            "3-grams": "1",
            "quantized": "no",
            "size on disk": f"{size} bytes",
            "memory": f"{memory} bytes",
        }

    def test_other_kinds(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        (tmp_path / "odd.name").write_bytes(gzip.compress(hand.read_bytes()))
        LanguageModel.read(hand).write(tmp_path / "small.arpa", quantize=True)
        for name, kind, quantized in [
            ("hand.arpa", "ARPA", "no"),
            ("odd.name", "ARPA in gzip", "no"),
            ("small.arpa", "binary", "yes"),
        ]:
            code, out, _ = run_asr("lm", "info", tmp_path / name)
            assert (code, facts(out)["kind"], facts(out)["quantized"]) == (0, kind, quantized)

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (None, "cannot be read (No such file or directory)"),
            (b"", "is empty"),
            (b"A poem is no model.\n", "is not a language model"),
            (HAND[:-6].encode(), "is truncated (it ends after line 20 without \\end\\)"),
            (HAND.replace("-0.3\t", "x\t").encode(), "line 15 of"),
            (gzip.compress(HAND.encode(), mtime=0)[:-9], "is a truncated or damaged gzip file"),
            (b"asr lm\r\n\2\0\0\0" + bytes(44), "has format version 2"),
            (b"asr lm\r\n", "is truncated within its header"),
        ],
    )
    @pytest.mark.parametrize("command", ["info", "perplexity", "convert"])
    def test_what_is_no_model(
        self, run_asr: RunAsr, text: Path, command: str, content: bytes | None, named: str
    ) -> None:
        path, output = text.with_name("bad"), text.with_name("output.lm")
        if content is not None:
            path.write_bytes(content)
        more = {"info": [], "perplexity": [text], "convert": [output]}
        code, out, err = run_asr("lm", command, path, *more[command])
        assert (code, out) == (2, "")
        assert named in last_sentence(err)
        assert str(path) in err
        assert len(err.splitlines()) == 1
        assert not output.exists()


class TestPerplexity:
    def test_by_hand(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        (tmp_path / "one.txt").write_text("a b\n")
        (tmp_path / "two.txt").write_bytes(gzip.compress(b"c\n"))
        code, out, err = run_asr(
            "lm", "perplexity", hand, tmp_path / "one.txt", tmp_path / "two.txt"
        )
        assert (code, err) == (0, "")
        known = 0.4 + 0.1 + 0.03125 + 0.125 + 1.0 + 1.0  # see tests/ngrams.py
        assert facts(out) == {
            "perplexity": f"{10 ** ((known + 0.5 + 2.0) / 5):.6g}",
            "perplexity of known words": f"{10 ** (known / 4):.6g}",
            "words": "5, of which 2 are </s>",
            "unknown words": "1 (20.00 %)",
            "sentences": "2",
        }

    def test_a_text_that_is_written_otherwise_is_told_and_can_be_normalized(
        self, run_asr: RunAsr, hand: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "raw.txt").write_text("A, B!\n")
        (tmp_path / "normalized.txt").write_text("a b\n")
        _, expected, _ = run_asr("lm", "perplexity", hand, tmp_path / "normalized.txt")
        code, out, err = run_asr("lm", "perplexity", hand, tmp_path / "raw.txt")
        assert code == 0
        assert facts(out)["unknown words"].startswith("2 ")
        assert "67 % of the words are unknown" in err
        assert "--profile" in err
        words = "lm", "perplexity", hand, tmp_path / "raw.txt", "--profile", "multilingual"
        code, out, err = run_asr(*words)
        assert (code, err) == (0, "")
        assert facts(out) == {
            **facts(expected),
            "profile": "multilingual (2 words changed, 0 dropped)",
        }

    def test_many_sentences_have_a_bar(
        self, run_asr: RunAsr, hand: Path, text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, expected, err = run_asr("lm", "perplexity", hand, text, "--profile", "none")
        assert err == ""
        monkeypatch.setattr(lm_commands, "MANY_SENTENCES", 300)
        code, out, err = run_asr("lm", "perplexity", hand, text, "--profile", "none")
        assert (code, out) == (0, expected)
        assert err.splitlines()[0] == "measuring: 300 sentences"
        assert err.splitlines()[1].startswith("measuring: 2,000 sentences in ")

    @pytest.mark.parametrize(
        ("texts", "named"),
        [
            (["none.txt"], "none.txt does not exist"),
            (["text.txt", "empty.txt"], "empty.txt contains no word"),
            (["-", "text.txt", "-"], "can be read only once"),
        ],
    )
    def test_bad_texts(
        self, run_asr: RunAsr, hand: Path, text: Path, texts: list[str], named: str
    ) -> None:
        text.with_name("empty.txt").write_text("")
        names = [name if name == "-" else text.with_name(name) for name in texts]
        code, out, err = run_asr("lm", "perplexity", hand, *names)
        assert (code, out) == (2, "")
        assert named in last_sentence(err)
        assert len(err.splitlines()) == 1


class TestConvert:
    def test_there_and_back(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        model = LanguageModel.read(hand)
        steps = ["model.lm", "model.arpa.gz", "again.arpa", "again", "hand.arpa"]
        hand.rename(tmp_path / "first")
        source = tmp_path / "first"
        for name in steps:
            before = source.read_bytes()
            code, out, err = run_asr("lm", "convert", source, tmp_path / name)
            assert (code, err) == (0, "")
            assert facts(out)["read"].startswith(f"{source} (")
            assert facts(out)["written"].startswith(f"{tmp_path / name} (")
            assert source.read_bytes() == before
            source = tmp_path / name
            assert_same(LanguageModel.read(source), model)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model.lm").read_bytes()

    def test_quantized_stays_quantized(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        run_asr("lm", "convert", hand, tmp_path / "small.lm", "--quantize")
        run_asr("lm", "convert", tmp_path / "small.lm", tmp_path / "copy.lm")
        assert LanguageModel.read(tmp_path / "copy.lm").quantized
        code, _, _ = run_asr("lm", "convert", tmp_path / "copy.lm", tmp_path / "again.arpa")
        assert code == 0
        assert_same(LanguageModel.read(tmp_path / "again.arpa"), LanguageModel.read(hand))

    def test_refusals(self, run_asr: RunAsr, hand: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(hand)
        for output, named in (
            (hand, "choose another file"),
            (tmp_path / "link", "choose another file"),
            (tmp_path, "is a folder"),
            (hand / "model.lm", "model.lm cannot be written"),
            (tmp_path / "model.lm.gz", "use the extension .arpa.gz"),
        ):
            code, out, err = run_asr("lm", "convert", hand, output)
            assert (code, out) == (2, "")
            assert named in last_sentence(err)
        code, _, err = run_asr("lm", "convert", hand, tmp_path / "other.arpa.gz", "--quantize")
        assert code == 2
        assert "omit --quantize" in last_sentence(err)
        assert hand.read_text() == HAND
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hand.arpa", "link"]
