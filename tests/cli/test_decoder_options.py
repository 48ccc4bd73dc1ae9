"""The beam decoder's doors: command line, checkpoint, Hydra group and recognizer agree."""

import gzip
import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import RunAsr

from asr.checkpoint import Checkpoint, save_model
from asr.data.manifest import Utterance, write_manifest
from asr.decoder.beam import BeamDecoder
from asr.decoder.build import load_decoder
from asr.decoder.config import DecoderConfig
from asr.decoder.hotwords import read_hotwords
from asr.decoder.lexicon import read_words
from asr.encoder import EncoderConfig
from asr.errors import AsrError, CheckpointError, ConfigError, DataError
from asr.features import FeaturesConfig
from asr.lm.model import LanguageModel
from asr.model import AcousticModel
from asr.recognizer import Recognizer
from asr.text import Vocabulary

RATE = 16_000
ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.7\ta\t-0.3
-0.9\tbe
-0.9\tsea

\\2-grams:
-0.3\t<s> a
-0.3\ta be

\\end\\
"""


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.2 * np.random.default_rng(5).standard_normal(2 * RATE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, noise: np.ndarray) -> Path:
    """A checkpoint whose random model is unsure of everything; recordings, a manifest, a model."""
    torch.manual_seed(7)
    model = AcousticModel(FeaturesConfig(mels=40), EncoderConfig(layers=1, hidden=24), 29).eval()
    with torch.no_grad():
        model.features.mean.fill_(-6.0)
        model.features.std.fill_(3.0)
        model.head.weight.mul_(1.5)
        model.head.bias[1] += 1.0  # spaces
    save_model(tmp_path / "model.pt", model, Vocabulary.english(), {"epoch": 1})
    utterances = []
    for number, seconds in enumerate((2.0, 1.2, 0.7)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, noise[: round(seconds * RATE)], RATE)
        utterances.append(Utterance(f"u{number}", str(path), seconds, "a be sea"))
    write_manifest(tmp_path / "dev.jsonl", utterances)
    (tmp_path / "tiny.arpa").write_text(ARPA)
    return tmp_path


@pytest.fixture
def asr(run_asr: RunAsr, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunAsr:
    """`run_asr` with the checkpoint, in its folder."""
    monkeypatch.chdir(folder)
    return lambda command, *words: run_asr(command, "--checkpoint", "model.pt", *words)


def log_probs_of(folder: Path, name: str) -> np.ndarray:
    recognizer = Recognizer.load(folder / "model.pt")
    [(_, [(_, emission)])] = recognizer.emissions([str(folder / name)])
    assert not isinstance(emission, AsrError)
    return emission


def test_every_door_gives_the_same_text(asr: RunAsr, folder: Path) -> None:
    """Law 4, with a language model and hotwords: asr transcribe, asr evaluate, Recognizer, decoder."""
    options = ("--lm", "tiny.arpa", "--hotword", "Be Sea", "--hotword-weight", "4", "--beam", "8")
    code, out, _ = asr("transcribe", *options, "--format", "json", "0.wav")
    assert code == 0
    printed = json.loads(out)
    asr("evaluate", *options, "--output", "out", "dev.jsonl")
    evaluated = [json.loads(line) for line in Path("out/hypotheses.jsonl").read_text().splitlines()]

    config = DecoderConfig("beam", beam=8, language_model=str(folder / "tiny.arpa"))
    hypothesis = Recognizer.load("model.pt", decoder=config, hotwords={"be sea": 4.0}).transcribe(
        "0.wav"
    )
    vocabulary = Checkpoint.read("model.pt").vocabulary
    decoder = BeamDecoder(
        vocabulary, 0.04, replace(config), LanguageModel.read("tiny.arpa"), None, {"be sea": 4.0}
    )
    direct = decoder.decode(log_probs_of(folder, "0.wav"))
    assert direct.text
    assert direct == hypothesis
    assert printed["text"] == evaluated[0]["pred_text"] == direct.text
    assert printed["words"] == direct.to_dict()["words"]
    assert direct.text != Recognizer.load("model.pt").transcribe("0.wav").text


def test_two_processes_decode_as_one(asr: RunAsr) -> None:
    found = []
    for number in ("1", "2"):
        code, _, err = asr(
            "evaluate", "--lm", "tiny.arpa", "--processes", number, "-o", number, "dev.jsonl"
        )
        assert code == 0, err
        found.append(Path(number, "hypotheses.jsonl").read_bytes())
    assert found[0] == found[1]


def test_nbest(asr: RunAsr) -> None:
    words = ("--lm", "tiny.arpa", "--nbest", "4", "--format", "json", "0.wav")
    _, out, _ = asr("transcribe", *words)
    found = json.loads(out)
    scores = [found["score"], *(other["score"] for other in found["alternatives"])]
    assert len(scores) == 4 == len({found["text"], *(o["text"] for o in found["alternatives"])})
    assert scores == sorted(scores, reverse=True)
    _, out, _ = asr("transcribe", "--lm", "tiny.arpa", "--format", "json", "0.wav")
    assert {**found, "alternatives": None} == {**json.loads(out), "alternatives": None}


def test_strict_writes_only_words_of_the_lexicon(asr: RunAsr) -> None:
    Path("words.txt").write_text("a\nBE\n\nsea S IY\n")
    assert read_words("words.txt") == ["a", "be", "sea"]
    for lexicon in (("--lm", "tiny.arpa"), ("--lexicon", "words.txt")):
        code, out, _ = asr("transcribe", *lexicon, "--strict", "0.wav")
        assert code == 0
        assert out.split()
        assert set(out.split()) <= {"a", "be", "sea"}
    code, out, _ = asr("transcribe", "--lm", "tiny.arpa", "--unknown", "0", "--beta=-2", "0.wav")
    assert not set(out.split()) <= {"a", "be", "sea"}


def test_a_lexicon_finds_its_words_in_a_model_of_another_case(asr: RunAsr) -> None:
    Path("words.txt").write_text("a\nbe\nsea\n")
    upper = ARPA.replace("be", "BE").replace("sea", "SEA").replace("\ta", "\tA")
    Path("upper.arpa").write_text(upper.replace("<s> a", "<s> A"))
    options = ("--lexicon", "words.txt", "--format", "json", "0.wav")
    found = [asr("transcribe", "--lm", lm, *options)[1] for lm in ("tiny.arpa", "upper.arpa")]
    assert found[0] == found[1]
    assert json.loads(found[0])["text"]


def test_hotwords_from_a_file_have_their_own_weights(asr: RunAsr) -> None:
    Path("names.txt").write_text("Sea\t9.5\nbe  a\n\n")
    assert read_hotwords("names.txt", 2.0) == {"sea": 9.5, "be a": 2.0}
    plain = asr("transcribe", "--lm", "tiny.arpa", "0.wav")[1]
    Path("loud.txt").write_text("zq\t30\n")
    loud = asr("transcribe", "--lm", "tiny.arpa", "--hotwords", "loud.txt", "0.wav")[1]
    assert loud.split().count("zq") > plain.split().count("zq")
    # Acoustics alone know hotwords too.
    alone = asr("transcribe", "--hotword", "zq", "--hotword-weight", "30", "0.wav")[1]
    assert "zq" in alone.split()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--alpha", "0.5"), "--alpha weighs a language model"),
        (("--beta", "1"), "--beta needs known words"),
        (("--strict",), "--strict needs known words"),
        (("--prior", "0.3"), "--prior needs known words"),
        (("--lm", "tiny.arpa", "--prior", "0.3"), "which this checkpoint lacks; run `asr tune`"),
        (("--lm", "tiny.arpa", "--strict", "--unknown", "1"), "leave out --unknown"),
        (("--hotword-weight", "3"), "--hotword-weight needs hotwords"),
        (("--decoder", "greedy", "--beam", "4"), "--beam requires the beam decoder"),
        (("--decoder", "greedy", "--hotword", "a"), "--hotword requires the beam decoder"),
        (("--decoder", "greedy", "--lm", "tiny.arpa"), "--lm requires the beam decoder"),
        (("--lm", "tiny.arpa", "--alpha", "nan"), "decoder.alpha is nan"),
        (("--lm", "tiny.arpa", "--beam", "1000000"), "decoder.beam is 1000000"),
        (("--lm", "missing.lm"), "missing.lm"),
        (("--lm", "0.wav"), "0.wav"),
        (("--lexicon", "missing.txt"), "missing.txt cannot be read"),
        (("--lexicon", "0.wav"), "is not UTF-8 text"),
        (("--lexicon", "empty.txt"), "empty.txt contains no word"),
        (("--hotwords", "empty.txt"), "empty.txt contains no word"),
        (("--hotwords", "odd.txt"), "odd.txt has the weight 'loud'"),
        (("--hotword", "π"), "'π' (U+03C0)"),
        (("--hotword", " "), "empty text"),
        (("--lm", "tiny.arpa", "--nbest", "2"), "--nbest has no effect with --format txt"),
        (("--nbest", "0"), "'0' is not a whole number above 0"),
    ],
)
def test_options_that_would_not_act_are_refused(
    asr: RunAsr, options: tuple[str, ...], sentence: str
) -> None:
    Path("empty.txt").write_text("\n \n")
    Path("odd.txt").write_text("fine\t1\nname\tloud\n")
    code, out, err = asr("transcribe", *options, "0.wav")
    assert code == 2
    assert not out
    assert sentence in err
    assert len(err.strip().splitlines()) == 1 or "usage" in err


class TestTune:
    def test_the_winner_is_kept_in_the_checkpoint(self, asr: RunAsr, run_asr: RunAsr) -> None:
        before = Checkpoint.read("model.pt").decoder
        assert before == DecoderConfig()
        options = ("--lm", "tiny.arpa", "--beam", "8")
        code, out, err = asr("tune", *options, "--trials", "12", "--picture", "t.png", "dev.jsonl")
        assert code == 0, err
        assert "alpha \\ beta" in out
        assert "saved in model.pt" in out
        assert Path("t.png").read_bytes().startswith(b"\x89PNG")
        kept = Checkpoint.read("model.pt").decoder
        assert (kept.kind, kept.beam, kept.language_model) == ("beam", 8, "")
        assert f"alpha {kept.alpha:g}, beta {kept.beta:g}, unknown {kept.unknown:g}" in out
        rate = out.split("winner:")[1].split("WER ")[1].split(" ")[0]
        # From now on the weights act without being named, and `asr info` shows them.
        _, evaluated, _ = asr("evaluate", *options, "dev.jsonl")
        assert f"WER {rate} %" in evaluated
        assert run_asr("info", "model.pt")[0] == 0
        # A greedy transcription stays what it was.
        assert "beam" not in asr("transcribe", "0.wav")[1]

    def test_output_leaves_the_checkpoint_alone(self, asr: RunAsr) -> None:
        before = Path("model.pt").read_bytes()
        asr("tune", "--lm", "tiny.arpa", "--trials", "2", "-o", "tuned/new.pt", "dev.jsonl")
        assert Path("model.pt").read_bytes() == before
        assert Checkpoint.read("tuned/new.pt").decoder.kind == "beam"
        old, new = Checkpoint.read("model.pt").weights, Checkpoint.read("tuned/new.pt").weights
        for name, weights in old.items():
            assert torch.equal(weights, new[name])

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ((), "only the beam decoder has weights"),
            (("--decoder", "beam"), "no weights to tune"),
            (("--decoder", "greedy"), "invalid choice: 'greedy'"),
            (("--lm", "tiny.arpa", "--picture", "t.jpg"), "use the extension .png"),
            (("--lm", "tiny.arpa", "--trials", "none"), "'none' is not a whole number"),
        ],
    )
    def test_refused(self, asr: RunAsr, options: tuple[str, ...], sentence: str) -> None:
        code, _, err = asr("tune", *options, "dev.jsonl")
        assert code == 2
        assert sentence in err

    def test_recording_that_cannot_be_read(self, asr: RunAsr) -> None:
        Path("1.wav").write_bytes(b"nothing")
        before = Path("model.pt").read_bytes()
        code, _, err = asr("tune", "--lm", "tiny.arpa", "--trials", "2", "dev.jsonl")
        assert code == 2
        assert "1.wav" in err
        assert Path("model.pt").read_bytes() == before


def test_checkpoint_with_an_impossible_decoder_is_refused(folder: Path) -> None:
    path = folder / "model.pt"
    payload = torch.load(path, weights_only=True)
    for damage in ({"kind": "psychic"}, {"beams": 3}, None):
        torch.save({**payload, "decoder": damage}, path)
        with pytest.raises(CheckpointError, match=r"model\.pt"):
            _ = Checkpoint.read(path).decoder
    torch.save(payload, path)
    files = DecoderConfig("beam", language_model="/here/only.lm", hotwords="names", beta=1.5)
    Checkpoint.read(path).write(path, files)
    assert Checkpoint.read(path).decoder == DecoderConfig("beam", beta=1.5)


def test_help_states_the_defaults(run_asr: RunAsr) -> None:
    _, out, _ = run_asr("transcribe", "--help")
    for name in ("beam", "hotword_weight", "alpha", "beta", "unknown", "prior"):
        text = " ".join(out.split(f"\n  --{name.replace('_', '-')} ")[1].split("\n  --")[0].split())
        assert text.endswith(f"(default: {getattr(DecoderConfig(), name):g})")


def test_greedy_refuses_what_only_a_beam_can_do() -> None:
    for values in ({"language_model": "x"}, {"hotwords": "x"}, {"strict": True}, {"nbest": 2}):
        with pytest.raises(ConfigError, match=f"decoder.{next(iter(values))}"):
            DecoderConfig(**values)
    with pytest.raises(ConfigError, match="hotwords"):
        load_decoder(DecoderConfig(), Vocabulary.english(), 0.04, {"a": 1.0})
    with pytest.raises(DataError, match="nowhere"):
        load_decoder(DecoderConfig("beam", lexicon="nowhere"), Vocabulary.english(), 0.04)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam", 2.5),
        ("beam", True),
        ("beam", "32"),
        ("nbest", 1.0),
        ("alpha", "much"),
        ("beta", None),
    ],
)
def test_a_number_of_the_wrong_kind_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"decoder.{name} is {value!r}"):
        DecoderConfig("beam", **{name: value})


def test_first_use_reports_that_it_compiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A compilation is reported in one line if it takes more than a moment."""
    from asr.cli import options

    recognizer = Recognizer.load(folder / "model.pt", decoder=DecoderConfig("beam"))
    options.prepare(recognizer)
    capfd.readouterr()
    options.prepare(recognizer)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(options, "NOTICE_SECONDS", 0.0)
    decode = recognizer.decoder.decode
    monkeypatch.setattr(recognizer.decoder, "decode", lambda m: (time.sleep(0.05), decode(m)))
    options.prepare(recognizer)
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("compiling the beam decoder, only this once") for line in lines)


def test_librispeech_is_decoded_with_its_published_models(
    asr: RunAsr, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Greedy, then each 3-gram and 4-gram that was fetched, upper case as published."""
    published = folder / "language-models"
    published.mkdir()
    upper = ARPA.replace("a\t", "A\t").replace(" a", " A").replace("be", "BE").replace("sea", "SEA")
    upper = upper.replace("\ta BE", "\tA BE")
    with gzip.open(published / "4-gram.arpa.gz", "wt") as file:
        file.write(upper)
    (published / "librispeech-vocab.txt").write_text("A\n")
    script = Path(__file__).parents[2] / "recipes" / "librispeech" / "evaluate.py"
    words = ["--checkpoint", "model.pt", "--manifest", "dev.jsonl", "--language-models"]
    monkeypatch.chdir(folder)

    def run(*rest: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(script), *words, str(published), *rest])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        out, err = capfd.readouterr()
        assert ended.value.code == 0, err
        return out

    both = run()
    assert both.index("== greedy") < both.index("== 4-gram.arpa.gz")
    assert (published / "4-gram.lm").exists()
    _, greedy, _ = asr("evaluate", "dev.jsonl")
    _, beam, _ = asr("evaluate", "--lm", "tiny.arpa", "dev.jsonl")
    rates = [line for line in both.splitlines() if line.startswith("WER")]
    assert rates == [greedy.splitlines()[0], beam.splitlines()[0]]
    assert rates[0] != rates[1]
    asked = run("--lm", "tiny.arpa")
    assert "==" not in asked
    assert asked.splitlines()[0] == rates[1]
