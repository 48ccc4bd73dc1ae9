"""`asr score`: two files of texts in every pair of formats."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from commands import RunAsr, one_sentence


class TestScore:
    REFERENCE: ClassVar = {"a": "the cat sat", "b": "on the mat", "c": ""}
    HYPOTHESIS: ClassVar = {"a": "the cat sat down", "b": "on mat", "c": ""}

    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        for name, texts in (("ref", self.REFERENCE), ("hyp", self.HYPOTHESIS)):
            lines = [json.dumps({"id": id, "text": text}) for id, text in texts.items()]
            (tmp_path / f"{name}.jsonl").write_text("\n" + "\n".join(lines) + "\n\n")
            lines = [f"{id}\t {text}" if text else id for id, text in texts.items()]
            (tmp_path / f"{name}.txt").write_text("\ufeff" + "\r\n".join(reversed(lines)), "utf-8")
        lines = [
            json.dumps({"audio_filepath": f"x/{id}.wav", "text": "not this", "pred_text": text})
            for id, text in self.HYPOTHESIS.items()
        ]
        (tmp_path / "nemo.jsonl").write_text("\n".join(lines))
        return tmp_path

    @pytest.mark.parametrize("reference", ["ref.jsonl", "ref.txt"])
    @pytest.mark.parametrize("hypothesis", ["hyp.jsonl", "hyp.txt", "nemo.jsonl"])
    def test_every_format_against_every_other(
        self, run_asr: RunAsr, files: Path, reference: str, hypothesis: str
    ) -> None:
        code, out, err = run_asr("score", files / reference, files / hypothesis)
        assert (code, err) == (0, "")
        assert out.startswith("WER 33.33 % (S 0, I 1, D 1 of 6 words)")
        assert out.splitlines()[1] == ("95 % interval of the WER, over utterances: 0.00 to 33.33 %")
        table = [line.split() for line in out.splitlines()[3:7]]
        assert table == [
            ["substitutions", "0", "0.00", "%"],
            ["insertions", "1", "16.67", "%"],
            ["deletions", "1", "16.67", "%"],
            ["word", "errors", "2", "33.33", "%"],
        ]
        assert "b: S 0, I 0, D 1 of 3 words" in out

    def test_json_and_profile(self, run_asr: RunAsr, files: Path) -> None:
        (files / "cased.txt").write_text("a The cat sat down!\nb On mat.\nc\n")
        words = ["score", files / "ref.txt", files / "cased.txt", "--json", "--profile"]
        _, out, _ = run_asr(*words, "english")
        assert json.loads(out)["errors"] == 2
        _, out, _ = run_asr(*words, "plain")
        assert json.loads(out)["errors"] == 3

    def test_perfect(self, run_asr: RunAsr, files: Path) -> None:
        _, out, _ = run_asr("score", files / "ref.txt", files / "ref.jsonl")
        assert out.startswith("WER 0.00 %")
        assert "worst" not in out

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (b"a the cat sat\nb on the mat\n", "only in the references ('c')"),
            (b"a x\na y\n", "'a' occurs twice"),
            (b'{"id": "a", "text": "x"}\n{"id": "b", "tex": "y"}', 'line 2 has no string "text"'),
            (b'{"id": "a", "text": "x"}\n{"id": ', "line 2 is not JSON"),
            (b'{"id": "a", "text": "x"}\n[1, 2]', "line 2 is not a JSON object"),
            (b'{"text": "x"}', "line 1 has neither"),
            (b"RIFF\xff\xfe", "is not UTF-8 text"),
            (b"", "only in the references"),
            (None, "cannot be read (No such file or directory)"),
        ],
    )
    def test_bad_files(
        self, run_asr: RunAsr, files: Path, content: bytes | None, named: str
    ) -> None:
        if content is not None:
            (files / "bad").write_bytes(content)
        code, out, err = run_asr("score", files / "ref.txt", files / "bad")
        assert (code, out) == (2, "")
        assert named in one_sentence(err)
