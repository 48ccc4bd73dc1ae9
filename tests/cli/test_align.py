"""`asr align`: the times of a known text, in every format."""

import json
from pathlib import Path

import pytest
import soundfile
from commands import RunAsr, one_sentence
from recordings import RATE, make_noise

from asr.decoder.alignment import align
from asr.decoder.hypothesis import Hypothesis
from asr.formats import to_ctm, to_srt, to_textgrid, to_vtt
from asr.recognizer import Recognizer


class TestAlign:
    TEXT = "Some words, said!"

    @pytest.fixture
    def found(self, checkpoint: Path, speech: Path) -> Hypothesis:
        """What the library finds for the same words."""
        recognizer = Recognizer.load(checkpoint)
        [(_, [(_, log_probs)])] = recognizer.emissions([str(speech)])
        seconds = recognizer.model.frame_seconds
        return align(log_probs, "some words said", recognizer.vocabulary, seconds)

    def test_json(self, run_asr: RunAsr, checkpoint: Path, speech: Path, found: Hypothesis) -> None:
        code, out, err = run_asr("align", speech, self.TEXT, "--checkpoint", checkpoint)
        assert (code, err) == (0, "")
        (line,) = out.splitlines()
        record = json.loads(line)
        assert record == {"path": str(speech), "seconds": 1.5, **found.to_dict()}
        assert [word["text"] for word in record["words"]] == ["some", "words", "said"]

    def test_formats_and_output(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, found: Hypothesis
    ) -> None:
        documents = {
            "ctm": to_ctm(found, "speech.wav"),
            "textgrid": to_textgrid(found, 1.5),
            "srt": to_srt(found),
            "vtt": to_vtt(found),
        }
        output = speech.parent / "new" / "file"
        for name, document in documents.items():
            words = ["align", speech, self.TEXT, "--checkpoint", checkpoint, "--format", name]
            assert run_asr(*words) == (0, document, "")
            assert run_asr(*words, "--output", output) == (0, "", "")
            assert output.read_text() == document

    def test_the_models_own_transcript_keeps_its_times(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path
    ) -> None:
        found_before = Recognizer.load(checkpoint).transcribe(speech)
        words = [
            "align",
            speech,
            found_before.text,
            "--profile",
            "plain",
            "--checkpoint",
            checkpoint,
        ]
        _, out, _ = run_asr(*words, "--format", "ctm")
        assert out == to_ctm(found_before, "speech.wav")

    def test_text_from_a_file_and_from_standard_input(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = run_asr("align", speech, self.TEXT, "--checkpoint", checkpoint)
        content = b"\xef\xbb\xbfSome\r\nwords\r\n\r\nsaid\r\n"
        speech.with_suffix(".TXT").write_bytes(content)
        options = ["--checkpoint", checkpoint, "--profile", "plain"]
        assert run_asr("align", speech, speech.with_suffix(".TXT"), *options) == expected
        assert run_asr("align", speech, "-", *options, stdin=content) == expected

    def test_a_recording_from_standard_input(
        self,
        run_asr: RunAsr,
        checkpoint: Path,
        speech: Path,
        found: Hypothesis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        words = ["align", "-", self.TEXT, "--checkpoint", checkpoint]
        _, out, _ = run_asr(*words, stdin=speech.read_bytes())
        assert json.loads(out) == {"path": "-", "seconds": 1.5, **found.to_dict()}

    def test_a_word_is_no_file(
        self, run_asr: RunAsr, checkpoint: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(speech.parent)
        Path("yes").write_text("no")
        _, out, _ = run_asr("align", speech, "yes", "--checkpoint", checkpoint)
        assert json.loads(out)["text"] == "yes"

    def test_what_is_refused(self, run_asr: RunAsr, checkpoint: Path, speech: Path) -> None:
        folder = speech.parent
        (folder / "words.lab").write_text("some words")
        (folder / "latin.txt").write_bytes(b"caf\xe9")
        (folder / "empty.txt").write_text(" ...\n")
        (folder / "text.wav").write_text("no recording")
        soundfile.write(folder / "10-ms.wav", make_noise(0.01), RATE)
        long = "a sentence. of many words " * 20
        for audio, text, *options, named in (
            (folder / "none.wav", "words", "none.wav does not exist"),
            (folder / "text.wav", "words", "text.wav"),
            (folder, "words", "is a folder"),
            (speech, folder / "none.txt", "none.txt cannot be read (No such file"),
            (speech, folder / "latin.txt", "latin.txt, line 1 is not UTF-8 text"),
            (speech, folder / "empty.txt", "the transcript of"),
            (speech, folder / "words.lab", "words.lab is a file, but not a .txt file"),
            (speech, "", "empty text"),
            (speech, "5 words", "contains '5' (U+0035)"),
            (speech, self.TEXT, "--profile", "plain", "contains ',' (U+002C), '!' (U+0021)"),
            (speech, long, "frames (19.96 s)"),
            (folder / "10-ms.wav", "words", "10-ms.wav needs 5 frames (0.20 s)"),
            ("-", "-", "only once"),
            (speech, "words", "-o", folder, "specify a file for --output"),
            (speech, "words", "-o", speech / "x", "x cannot be written"),
            (speech, "words", "--device", "toaster", "'toaster'"),
        ):
            words = ["align", audio, text, "--checkpoint", checkpoint, *options]
            code, out, err = run_asr(*words)
            assert (code, out) == (2, "")
            assert named in one_sentence(err)
