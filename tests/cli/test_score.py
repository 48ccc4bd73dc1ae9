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
        assert out.splitlines()[1] == (
            "95 % confidence interval of the WER, over utterances: 0.00 to 33.33 %"
        )
        table = [line.split() for line in out.splitlines()[3:7]]
        assert table == [
            ["substitutions", "0", "0.00", "%"],
            ["insertions", "1", "16.67", "%"],
            ["deletions", "1", "16.67", "%"],
            ["word", "errors", "2", "33.33", "%"],
        ]
        assert "b: S 0, I 0, D 1 of 3 words" in out

    # Two errors in four words, in the formats of other tools; the ids are told by more than one rule.
    FORMATS: ClassVar = {
        "trn": ("one two (s1-u1)\nthree four (s1-u2)\n", "one too (s1-u1)\nthree for (s1-u2)\n"),
        "trn with words as ids": (
            "one two (anna)\nthree four (bob)\n",
            "one too (anna)\nthree for (bob)",
        ),
        "tsv": (
            "client_id\tpath\tsentence\nx\tu1.mp3\tone two\nx\tu2.mp3\tthree four\n",
            "id\ttext\nu1\tone too\nu2\tthree for\n",
        ),
        "kaldi": ("u1 one two\nu2 three four\n", "u2 three for\nu1 one too\n"),
        "kaldi with tabs": ("ann\tone two\nbob\tthree four\n", "ann\tone too\nbob\tthree for\n"),
        "kaldi and jsonl": (
            "ann one two\nbob three four\n",
            '{"id": "ann", "text": "one too"}\n{"id": "bob", "text": "three for"}\n',
        ),
    }

    @pytest.mark.parametrize("form", FORMATS)
    def test_formats_are_recognized(self, run_asr: RunAsr, tmp_path: Path, form: str) -> None:
        for name, content in zip(("ref", "hyp"), self.FORMATS[form], strict=True):
            (tmp_path / name).write_text(content)
        for one, other, changes in (("ref", "hyp", "S 2"), ("hyp", "ref", "S 2")):
            code, out, err = run_asr("score", tmp_path / one, tmp_path / other)
            assert (code, err) == (0, "")
            assert out.startswith(f"WER 50.00 % ({changes}, I 0, D 0 of 4 words)")

    def test_an_unclear_format_is_asked_for(self, run_asr: RunAsr, tmp_path: Path) -> None:
        (tmp_path / "ref").write_text("one two\nthree four\n\n")
        (tmp_path / "hyp").write_text("one too\nthree for\n\n")
        files = (tmp_path / "ref", tmp_path / "hyp")
        code, out, err = run_asr("score", *files)
        assert (code, out) == (2, "")
        assert "--format lines" in one_sentence(err)
        assert "--format kaldi" in err
        assert run_asr("score", *files, "--format", "lines")[1].startswith("WER 50.00 %")
        assert run_asr("score", *files, "--format", "kaldi")[1].startswith("WER 100.00 %")

    @pytest.mark.parametrize(
        "content",
        [
            "u1 1 anna 0.00 1.50 one two\nu2 1 anna 0.00 1.50 three four\n",  # stm
            "u1 1 0.00 1.50 one\nu2 1 0.00 1.50 three\n",  # ctm
            "id,text\nu1,one two\nu2,three four\n",
            "u1,one two\nu2,three four\n",
            "WEBVTT\n\n00:00.000 --> 00:01.000\none two\n",
            "u1\tanna\tone two\nu2\tanna\tthree four\n",  # a table without a header
            "one two (laughs)\nu2 three (laughs)\n",
            "{ one / two } (u1)\nthree (u2)\n",
        ],
    )
    def test_other_formats_are_refused(self, run_asr: RunAsr, tmp_path: Path, content: str) -> None:
        (tmp_path / "ref").write_text(content)
        code, out, err = run_asr("score", tmp_path / "ref", tmp_path / "ref")
        assert (code, out) == (2, "")
        assert str(tmp_path / "ref") in one_sentence(err)

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
