"""The recipe for English: three corpora become one training set; a model is measured on each."""

import gzip
import io
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from corpus import tiny_task, write_tones
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load
from omegaconf import OmegaConf

from asr import scoring
from asr.audio.waveform import Resampler
from asr.checkpoint import save_model
from asr.cli.main import main as asr
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoder.config import DecoderConfig
from asr.decoder.hypothesis import Hypothesis, Word
from asr.encoder import EncoderConfig
from asr.errors import DataError
from asr.features import FeaturesConfig
from asr.lm.model import LanguageModel
from asr.model import AcousticModel
from asr.recipe import Experiment
from asr.recognizer import Recognizer
from asr.scoring import score
from asr.text import Vocabulary
from asr.training.metrics import Metrics
from asr.training.run import train

prepare = load(ROOT / "recipes" / "english" / "prepare.py")
evaluate = load(ROOT / "recipes" / "english" / "evaluate.py")
alarms = sys.modules[evaluate.find_noises.__module__]
curve = sys.modules[evaluate.read_runs.__module__]
latency = load(ROOT / "recipes" / "english" / "latency.py")
long_audio = load(ROOT / "scripts" / "measure_long_audio.py")

RATE = 16_000
RANDOM = np.random.default_rng(3)


def write_noise(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, RANDOM.normal(0, 0.1, round(seconds * RATE)), RATE)


def write_librispeech(folder: Path, lines: dict[str, str]) -> None:
    """`lines`: speaker-chapter-number -> text."""
    for name, text in lines.items():
        speaker, chapter, _ = name.split("-")
        here = folder / speaker / chapter
        write_noise(here / f"{name}.flac")
        with (here / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")


def write_common_voice(folder: Path, table: str, rows: list[tuple[str, str, str]]) -> None:
    """`rows`: (speaker, name, sentence)."""
    lines = ["client_id\tpath\tsentence"]
    for speaker, name, sentence in rows:
        write_noise(folder / "clips" / f"{name}.flac")
        lines.append(f"{speaker}\t{name}.flac\t{sentence}")
    (folder / table).write_text("\n".join(lines) + "\n")


def write_kaldi(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """`rows`: (speaker, name, text)."""
    for _, name, _ in rows:
        write_noise(folder / "wav" / f"{name}.wav")
    (folder / "wav.scp").write_text("".join(f"{n} wav/{n}.wav\n" for _, n, _ in rows))
    (folder / "text").write_text("".join(f"{n} {t}\n" for _, n, t in rows))
    (folder / "utt2spk").write_text("".join(f"{n} {s}\n" for s, n, _ in rows))


@pytest.fixture
def corpora(tmp_path: Path) -> list[str]:
    """The options that name three tiny corpora and where the result goes."""
    libri, voice, ocean = (tmp_path / name for name in ("LibriSpeech", "cv", "ocean"))
    write_librispeech(libri / "a", {"1-2-0001": "GOOD MORNING", "1-2-0002": "IT RAINS"})
    write_librispeech(libri / "b", {"3-4-0001": "GOOD NIGHT"})
    write_common_voice(voice, "train.tsv", [("x", "one", "He said: “No!”"), ("y", "u1", "Yes.")])
    write_common_voice(voice, "dev.tsv", [("z", "two", "Yes."), ("z", "three", "Good night?")])
    write_kaldi(ocean / "train", [("1", "u1", "WE SEE"), ("2", "u2", "GOOD NIGHT")])
    write_kaldi(ocean / "dev", [("9", "u9", "THE SEA")])
    return [
        *("--librispeech", str(libri), "--train", "a", "--dev", "b"),
        *("--common-voice", str(voice), "--speechocean", str(ocean)),
        *("--output", str(tmp_path / "out")),
    ]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def texts(manifest: Path) -> dict[str, str]:
    return {utterance.id: utterance.text for utterance in read_manifest(manifest)}


def one_line(err: str) -> str:
    """The complaint at the end of stderr, behind the progress."""
    lines = err.strip().splitlines()
    assert "Traceback" not in err
    names = ("prepare.py: ", "evaluate.py: ", "latency.py: ", "measure_long_audio.py: ")
    assert lines[-1].startswith(names)
    return lines[-1]


# Manifests


def test_three_corpora_become_one(corpora: list[str], output: Path, capsys) -> None:
    assert prepare.main(corpora) == 0
    assert texts(output / "train.jsonl") == {
        "1-2-0001": "good morning",
        "1-2-0002": "it rains",
        "one": "he said no",
        "common-voice-u1": "yes",
        "speechocean-u1": "we see",
        "u2": "good night",
    }, "ids that clash are told apart, and only those"
    assert texts(output / "dev-librispeech.jsonl") == {"3-4-0001": "good night"}
    assert texts(output / "dev-common-voice.jsonl") == {"two": "yes", "three": "good night"}
    assert texts(output / "dev-speechocean.jsonl") == {"u9": "the sea"}
    together = {}
    for part in ("librispeech", "common-voice", "speechocean"):
        together |= texts(output / f"dev-{part}.jsonl")
    assert texts(output / "dev.jsonl") == together

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["librispeech", "train", "2", "0.00", "1"] in rows
    assert ["librispeech", "dev", "1", "0.00", "1", "1"] in rows
    assert ["common-voice", "dev", "2", "0.00", "1", "2"] in rows
    assert ["speechocean", "dev", "1", "0.00", "1", "0"] in rows
    assert ["all", "train", "6", "0.00", "5"] in rows, "the speakers 1 of two corpora are two"
    assert not list(output.glob("*.lm"))


def test_any_corpus_will_do_and_nothing_stale_stays(corpora: list[str], output: Path) -> None:
    assert prepare.main(corpora) == 0
    assert prepare.main([*corpora[6:8], *corpora[10:]]) == 0
    assert texts(output / "dev.jsonl") == texts(output / "dev-common-voice.jsonl")
    assert [path.name for path in output.glob("dev-*")] == ["dev-common-voice.jsonl"]
    assert set(texts(output / "train.jsonl")) == {"one", "u1"}


def test_corpora_are_balanced(corpora: list[str], output: Path) -> None:
    options = ("--balance", "librispeech=2", "speechocean=0.5")
    assert prepare.main([*corpora, *options]) == 0
    plain = {u.id: u for u in read_manifest(output / "train.jsonl")}
    found = {u.id: u for u in read_manifest(output / "balanced.jsonl")}
    twice = ["1-2-0001#0", "1-2-0001#1", "1-2-0002#0", "1-2-0002#1"]
    once, every_other_one = ["common-voice-u1#0", "one#0"], ["u2#0"]
    assert sorted(found) == [*twice, *once, *every_other_one]
    for name, utterance in found.items():
        assert utterance == replace(plain[name.partition("#")[0]], id=name)


@settings(deadline=None)
@given(st.integers(1, 50), st.sampled_from([0, 0.2, 0.5, 1, 1.5, 3]))
def test_each_utterance_comes_as_often_as_the_others(count: int, times: float) -> None:
    utterances = [Utterance(f"u{i}", "a.wav", 1.0, "a") for i in range(count)]
    found = list(prepare.balance({"x": {"train": utterances, "dev": []}}, {"x": times}))
    assert abs(len(found) - count * times) < 1
    often = [sum(u.id.startswith(f"u{i}#") for u in found) for i in range(count)]
    assert max(often) - min(often) <= 1
    assert len({u.id for u in found}) == len(found)


def test_rejects_are_told(corpora: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "ocean" / "train" / "wav" / "u2.wav").unlink()
    assert prepare.main(corpora) == 0
    assert "1 left out, audio missing: u2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "at least one of --librispeech"),
        (["--librispeech", "x", "--train", "a"], "go together"),
        (["--common-voice", "x", "--dev", "a"], "go together"),
        (["--common-voice", "x", "--balance", "speechocean=2"], "--speechocean is not given"),
        (["--common-voice", "x", "--balance", "common-voice=two"], "'common-voice=two' is none of"),
        (["--common-voice", "x", "--balance", "voices=2"], "'voices=2' is none of"),
        (["--common-voice", "x", "--balance", "common-voice=-1"], "a number from 0 to 100"),
    ],
)
def test_wrong_usage(arguments: list[str], named: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        prepare.main(arguments)
    assert named in capsys.readouterr().err


def test_what_is_refused(corpora: list[str], output: Path, tmp_path: Path, capsys) -> None:
    def complaint(*more: str) -> str:
        assert prepare.main([*corpora, *more]) == 2
        return one_line(capsys.readouterr().err)

    assert "no-such" in complaint("--train", "no-such")
    assert "'1-2-0001' twice" in complaint("--dev", "a", "b")
    assert not output.exists(), "nothing is written before all is well"
    assert "no-such.gz does not exist" in complaint("--text", str(tmp_path / "no-such.gz"))
    assert "is not a folder" in complaint("--noise", str(tmp_path / "no-such"))
    (tmp_path / "empty").mkdir()
    assert "holds no recording" in complaint("--rir", str(tmp_path / "empty"))


def test_a_speaker_of_both_sides_is_refused(
    corpora: list[str], output: Path, tmp_path: Path, capsys
) -> None:
    write_common_voice(tmp_path / "cv", "dev.tsv", [("x", "two", "Yes."), ("w", "three", "No.")])
    assert prepare.main(corpora) == 2
    assert "common-voice: 1 of the speakers are in train and in dev (x)" in one_line(
        capsys.readouterr().err
    )
    assert not output.exists()


# Noise and rooms


def write_response(path: Path, seconds: float, *echoes: tuple[float, float]) -> None:
    """A room whose sound falls by 60 dB in `seconds`, behind 50 ms of nothing, and its echoes."""
    t = np.arange(3 * RATE) / RATE
    response = RANDOM.normal(0, 0.05, len(t)) * 10 ** (-3 * t / seconds)
    response[0] = 1.0
    for delay, gain in echoes:
        response[round(delay * RATE)] += gain
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([np.zeros(800), 0.9 * response]), RATE)


def test_effects_are_no_rooms(tmp_path: Path) -> None:
    write_response(tmp_path / "office.wav", 0.5)
    write_response(tmp_path / "hall.wav", 1.2)
    write_response(tmp_path / "cave.wav", 8.0)
    write_response(tmp_path / "echo.wav", 0.3, (0.6, 0.8))
    write_response(tmp_path / "early.wav", 0.3, (0.3, 0.8))
    rooms = {path.stem for path in tmp_path.iterdir() if prepare.is_room(path)}
    assert rooms == {"office", "hall", "early"}


def test_noise_and_rooms_are_copied(
    corpora: list[str], output: Path, tmp_path: Path, capsys
) -> None:
    noise, rooms = tmp_path / "noises", tmp_path / "rooms"
    write_noise(noise / "street" / "tram.flac")
    write_noise(noise / "tap.wav")
    (noise / "tap.wav").chmod(0o444)
    (noise / "README.md").write_text("not a recording")
    write_response(rooms / "office.wav", 0.5)
    write_response(rooms / "cave.wav", 8.0)
    options = [*corpora, "--noise", str(noise), "--rir", str(rooms)]
    assert prepare.main(options) == 0
    assert "1 left out as no rooms: cave.wav" in capsys.readouterr().out
    found = {str(p.relative_to(output)) for p in output.glob("[nr]*/**/*") if p.is_file()}
    assert found == {"noise/street/tram.flac", "noise/tap.wav", "rir/office.wav"}
    (noise / "tap.wav").unlink()
    assert prepare.main(options) == 0
    assert [path.name for path in (output / "noise").iterdir()] == ["street"]


@pytest.mark.parametrize("content", [b"", b"no audio"])
def test_a_bad_response_is_refused(
    corpora: list[str], output: Path, tmp_path: Path, content: bytes, capsys
) -> None:
    write_response(output / "rir" / "old.wav", 0.5)
    write_response(tmp_path / "rooms" / "office.wav", 0.5)
    bad = tmp_path / "rooms" / "bad.wav"
    bad.write_bytes(content)
    if not content:
        soundfile.write(bad, np.zeros(RATE), RATE)
    assert prepare.main([*corpora, "--rir", str(tmp_path / "rooms")]) == 2
    assert str(bad) in one_line(capsys.readouterr().err)
    assert [path.name for path in (output / "rir").iterdir()] == ["old.wav"]


# Language models


def test_no_dev_sentence_gets_into_a_language_model(
    corpora: list[str], output: Path, tmp_path: Path, capsys
) -> None:
    text = tmp_path / "text.gz"
    lines = ["the sea is wide", "the sea", "", " good  night ", "we went to the sea"]
    text.write_bytes(gzip.compress("\n".join(lines).encode()))
    write_kaldi(
        tmp_path / "ocean" / "train", [("1", "u1", "WE SEE"), ("2", "u2", "GOOD NIGHT"),
                                       ("2", "u3", "WE SEE"), ("2", "u4", "ROOM 7")]
    )  # fmt: skip
    assert prepare.main([*corpora, "--text", str(text)]) == 0
    sentences = gzip.decompress((output / "sentences.txt.gz").read_bytes()).decode()
    assert sentences.splitlines() == [
        "the sea is wide",
        "we went to the sea",
        "good morning",
        "it rains",
        "he said no",
        "we see",
    ]
    out = capsys.readouterr().out
    assert "2 of the texts and 2 of the training prompts" in out
    for name in ("language-model.lm", "language-model-small.lm"):
        model = LanguageModel.read(output / name)
        assert model.word_id("wide"), "words of the text are known"
        assert model.word_id("rains"), "words of the prompts too"
        assert not model.word_id("night"), "words of dev alone are not"
        shown = [line.split() for line in out.splitlines() if line.startswith(f"{name} ")]
        assert [row[1] for row in shown] == ["librispeech", "common-voice", "speechocean"]
        [row] = [row for row in shown if row[1] == "speechocean"]
        assert float(row[2]) == pytest.approx(model.perplexity(["the sea"]).perplexity, abs=0.06)
        assert row[3:] == ["0.00", "%"]


# Training and evaluation


def test_the_configuration_finds_what_prepare_writes() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        experiment = OmegaConf.to_object(compose("english"))
    assert isinstance(experiment, Experiment)
    folder = str(prepare.parse(["--common-voice", "x"]).output)
    assert experiment.data.train == f"{folder}/train.jsonl"
    assert experiment.data.dev == f"{folder}/dev.jsonl"
    assert experiment.augment.noise_folder == f"{folder}/noise"
    assert experiment.augment.reverb_folder == f"{folder}/rir"
    assert experiment.features.high_hz < 5750, "above, only some of the sources have sound"
    assert evaluate.parse([]).checkpoint == f"{experiment.folder}/best.pt"
    assert str(evaluate.parse([]).data) == folder


def write_model(path: Path, kind: str = "latency_controlled") -> Path:
    """An untrained model: what it writes is nonsense, but always the same."""
    torch.manual_seed(1)
    vocabulary = Vocabulary.english()
    encoder = EncoderConfig(kind, layers=1, hidden=16, stack=4)
    model = AcousticModel(FeaturesConfig(mels=20), encoder, len(vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # more than one symbol wins
    decoder = DecoderConfig(kind="beam", beam=4, alpha=0.7)
    save_model(path, model, vocabulary, {}, decoder=decoder)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two dev sets and a language model."""
    for name, count in (("near", 4), ("far", 3)):
        utterances = []
        for number in range(count):
            path = tmp_path / "data" / f"{name}{number}.wav"
            write_noise(path, 0.5 + 0.2 * number)
            text = "the sea is wide" if number else "we see"
            utterances.append(Utterance(f"{name}{number}", str(path), 0.5 + 0.2 * number, text))
        write_manifest(tmp_path / "data" / f"dev-{name}.jsonl", utterances)
    (tmp_path / "text.txt").write_text("the sea is wide\nwe see the sea\n")
    small = tmp_path / "data" / "language-model-small.lm"
    assert asr(["lm", "train", str(tmp_path / "text.txt"), "-o", str(small)]) == 0
    return tmp_path / "data"


def run(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "results" / "results.json"
    common = ["--device", "cpu", "--threads", "1", "--minutes", "0", "--output", str(results)]
    code = evaluate.main(["--checkpoint", str(checkpoint), "--data", str(data), *common, *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


def test_the_figures_are_those_of_the_command(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    code, found = run(checkpoint, data)
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert found["decoder"]["alpha"] == 0.7
    assert found["decoder"]["language_model"] == str(data / "language-model-small.lm")
    assert list(found["sets"]) == ["far", "near"]
    for name, rates in found["sets"].items():
        command = ["evaluate", str(data / f"dev-{name}.jsonl"), "--checkpoint", str(checkpoint)]
        for kind, decoder in {
            "greedy": [],
            "beam": ["--lm", found["decoder"]["language_model"]],
        }.items():
            folder = tmp_path / f"{name}-{kind}"
            assert asr([*command, *decoder, "--device", "cpu", "-o", str(folder)]) == 0
            report = json.loads((folder / "report.json").read_text())
            for key in ("wer", "cer", "words", "substitutions", "insertions", "deletions"):
                assert rates[kind][key] == report[key], (name, kind, key)
            assert rates[kind]["low"] <= report["wer"] <= rates[kind]["high"]
            [line] = [line for line in lines if line.startswith(f"{name} ")]
            assert f"{100 * report['wer']:.2f} [" in line


def test_named_sets_and_greedy_alone(checkpoint: Path, data: Path, capsys) -> None:
    (data / "language-model-small.lm").unlink()
    code, found = run(checkpoint, data, "--manifest", f"held out={data / 'dev-near.jsonl'}")
    assert code == 0
    assert "greedy decoding only" in capsys.readouterr().out
    assert list(found["sets"]) == ["held out"]
    assert "beam" not in found["sets"]["held out"]
    assert found["sets"]["held out"]["utterances"] == 4


def test_a_recording_that_cannot_be_read_counts_as_deleted(
    checkpoint: Path, data: Path, capsys
) -> None:
    good = run(checkpoint, data)[1]["sets"]["near"]
    (data / "near1.wav").write_bytes(b"no audio")
    code, found = run(checkpoint, data)
    assert code == 1
    assert "near, near1: " in capsys.readouterr().err
    near = found["sets"]["near"]
    assert (near["unread"], near["utterances"]) == (1, 4)
    assert near["greedy"]["words"] == good["greedy"]["words"]
    assert near["greedy"]["deletions"] >= 4
    assert found["sets"]["far"]["unread"] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lm", "no-such.lm"], "no-such.lm"),
        (["--manifest", "x=no-such.jsonl"], "no-such.jsonl"),
        (["--checkpoint", "no-such.pt"], "no-such.pt"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_evaluation_refuses_in_one_sentence(
    checkpoint: Path, data: Path, arguments: list[str], named: str, capsys
) -> None:
    code, found = run(checkpoint, data, *arguments)
    assert (code, found) == (2, {})
    assert named in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("manifests", [["x"], ["=x"], ["x="], ["x=a", "x=b"]])
def test_each_set_needs_a_name(manifests: list[str], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.parse([word for each in manifests for word in ("--manifest", each)])
    assert "--manifest" in capsys.readouterr().err


def test_no_dev_set(checkpoint: Path, tmp_path: Path, capsys) -> None:
    assert run(checkpoint, tmp_path)[0] == 2
    assert "run prepare.py" in one_line(capsys.readouterr().err)


def test_a_language_model_of_the_checkpoint_is_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released model names one; what is asked for goes first, the recipe's last."""
    small, own = str(data / "language-model-small.lm"), str(tmp_path / "own.lm")
    arguments = ["--data", str(data)]
    for config, more, expected in (
        (DecoderConfig("beam", language_model=own), ["--lm", "x.lm"], "x.lm"),
        (DecoderConfig("beam", language_model=own), [], own),
        (DecoderConfig(), [], small),
    ):
        monkeypatch.setattr(evaluate, "load_decoder_config", lambda _, found=config: found)
        assert evaluate.find_language_model(evaluate.parse([*arguments, *more])) == expected
    assert evaluate.find_language_model(evaluate.parse(["--data", str(tmp_path)])) is None


# Confidence


def make_words(speakers: int, each: int = 60) -> list:
    """Words of two sets, right as often as a logistic of their posteriors says."""
    random = np.random.default_rng(4)
    posteriors = 1 / (1 + np.exp(-random.normal(1, 2.5, speakers * each)))
    right = random.random(len(posteriors)) < evaluate.calibrate(posteriors, 0.6, -1.0)
    return [
        evaluate.Judged(
            "near" if number % 3 else "far", f"s{number % speakers}", float(p), bool(is_right)
        )
        for number, (p, is_right) in enumerate(zip(posteriors, right, strict=True))
    ]


def test_no_speaker_is_in_both_halves() -> None:
    words = make_words(10)
    halves = evaluate.share_out(words)
    sides = {}
    for word, half in zip(words, halves, strict=True):
        sides.setdefault((word.set, word.speaker), set()).add(half)
    assert all(len(side) == 1 for side in sides.values())
    for name in ("near", "far"):
        mine = [half for word, half in zip(words, halves, strict=True) if word.set == name]
        assert 0.4 < np.mean(mine) < 0.6, "both halves have some of each set"
    again = evaluate.share_out(words[::-1])
    assert again[::-1] == halves, "the order does not matter"


def test_the_confidence_is_judged_on_the_other_half() -> None:
    words = make_words(100)
    found = evaluate.measure_confidence(words, own=(1.0, 0.0))
    assert (found["slope"], found["offset"]) == pytest.approx((0.6, -1.0), abs=0.12)
    assert found["calibration_error"] < 0.03 < found["own"]["calibration_error"]
    assert found["auroc"] == pytest.approx(found["own"]["auroc"], abs=0.01)
    assert found["words"] == len(words) == sum(bin["words"] for bin in found["bins"])
    assert sum(figures["words"] for figures in found["sets"].values()) == len(words)

    first = evaluate.share_out(words)
    posteriors = np.array([word.posterior for word in words])
    right = np.array([word.right for word in words])
    for number, half in enumerate(found["halves"]):
        mine = np.array(first) if number == 0 else ~np.array(first)
        slope, offset = evaluate.fit_confidence(posteriors[~mine], right[~mine])
        assert (half["slope"], half["offset"]) == (slope, offset), "fitted on the other half"
        confidences = evaluate.calibrate(posteriors[mine], slope, offset)
        assert half["calibration_error"] == evaluate.calibration_error(confidences, right[mine])
        assert half["words"] == mine.sum()
    everyone = {(word.set, word.speaker) for word in words}
    assert sum(half["speakers"] for half in found["halves"]) == len(everyone)


def test_nothing_to_fit_is_no_confidence() -> None:
    words = make_words(2)
    assert evaluate.measure_confidence([], own=(1.0, 0.0)) is None
    assert evaluate.measure_confidence([w for w in words if w.right], own=(1.0, 0.0)) is None


def test_the_confidence_is_that_of_the_beam(checkpoint: Path, data: Path, capsys) -> None:
    """With references that are what the beam finds, in part, there is something to fit."""
    recognizer = Recognizer.load(
        checkpoint,
        decoder=DecoderConfig(
            "beam", beam=4, alpha=0.7, language_model=str(data / "language-model-small.lm")
        ),
    )
    for name in ("near", "far"):
        path = data / f"dev-{name}.jsonl"
        told = [
            replace(u, text=recognizer.transcribe(u.audio).text if number < 2 else "not a word")
            for number, u in enumerate(read_manifest(path))
        ]
        write_manifest(path, told)
    code, found = run(checkpoint, data)
    assert code == 0
    confidence = found["confidence"]
    hits = [s["beam"]["words"] - s["beam"]["deletions"] for s in found["sets"].values()]
    hits = sum(hits) - sum(s["beam"]["substitutions"] for s in found["sets"].values())
    assert confidence["right"] == hits > 0
    assert confidence["own"]["slope"] == DecoderConfig().confidence_slope
    assert sum(half["speakers"] for half in confidence["halves"]) == 7, "each one its own"
    assert "Fitted on all: slope" in capsys.readouterr().out
    assert (data / "results" / "results.png").read_bytes().startswith(b"\x89PNG")


# False alarms


def test_each_kind_of_noise_is_repeated(tmp_path: Path) -> None:
    write_noise(tmp_path / "running_tap.wav", 0.3)
    write_noise(tmp_path / "street" / "a.wav", 0.2)
    write_noise(tmp_path / "street" / "b.wav", 0.4)
    noises = alarms.find_noises(tmp_path)
    assert {name: len(paths) for name, paths in noises.items()} == {"running_tap": 1, "street": 2}
    sounds = {
        name: soundfile.read(io.BytesIO(content))
        for name, content in alarms.make_sounds(noises, 2.0, RATE)
    }
    assert list(sounds) == ["digital silence", "faint white noise", "running tap", "street"]
    assert all(len(samples) == 2 * RATE and rate == RATE for samples, rate in sounds.values())
    levels = {name: 20 * np.log10(samples.std() + 1e-9) for name, (samples, _) in sounds.items()}
    assert levels["digital silence"] < -150
    assert levels["faint white noise"] == pytest.approx(-60, abs=1)
    street = sounds["street"][0]
    period = round(0.6 * RATE)
    assert np.array_equal(street[:period], street[period : 2 * period])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no recording of noise"):
        alarms.find_noises(tmp_path / "empty")


def test_words_a_minute_are_those_of_transcribe(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    write_noise(data / "noise" / "tap.wav", 1.0)
    code, found = run(checkpoint, data, "--minutes", "0.25")
    assert code == 0
    assert found["false_alarms"]["minutes"] == 0.25
    rates = found["false_alarms"]["words_per_minute"]
    assert list(rates) == ["digital silence", "faint white noise", "tap"]
    made = dict(alarms.make_sounds(alarms.find_noises(data / "noise"), 15.0, RATE))
    (tmp_path / "tap.wav").write_bytes(made["tap"])
    transcribe = ["transcribe", str(tmp_path / "tap.wav"), "--checkpoint", str(checkpoint)]
    for kind, more in {
        "greedy": [],
        "beam": ["--lm", str(data / "language-model-small.lm")],
    }.items():
        assert asr([*transcribe, *more, "--device", "cpu", "-o", str(tmp_path / kind)]) == 0
        words = (tmp_path / kind / "tap.txt").read_text().split()
        assert words, "it says something there"
        assert rates["tap"][kind] == len(words) / 0.25
    assert run(checkpoint, data)[1]["false_alarms"] is None, "none was asked for"


def test_noise_that_is_named_has_to_be_there(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    noise = ["--minutes", "1", "--noise"]
    assert run(checkpoint, data, *noise, str(tmp_path / "none"))[0] == 2
    assert "is not a folder" in one_line(capsys.readouterr().err)
    (tmp_path / "empty").mkdir()
    assert run(checkpoint, data, *noise, str(tmp_path / "empty"))[0] == 2
    assert "no recording of noise" in one_line(capsys.readouterr().err)


# The curve


def write_run(folder: Path, epochs: int, hours: float | None = 2.0, pause: float = 0.0) -> None:
    """A run of some steps, in two calls with a pause between them; the second one does a step again."""
    rows = []
    with Metrics(folder) as metrics:
        for epoch in range(1, epochs + 1):
            metrics.write("step", 2 * epoch - 1, {"epoch": epoch, "loss": 1.0})
            position = metrics.position()
            row = {"epoch": epoch, "wer": 1 / epoch, "cer": 0.5 / epoch}
            rows.append(row if hours is None else row | {"hours": hours})
            metrics.write("epoch", 2 * epoch, rows[-1])
    time.sleep(pause)
    with Metrics(folder, position, step=2 * epochs - 1) as metrics:
        metrics.write("epoch", 2 * epochs, rows[-1])


def test_runs_that_follow_one_another_are_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3, pause=0.5)
    write_run(tmp_path / "b", 2, hours=5.0)
    epochs = curve.read_runs([tmp_path / "a", tmp_path / "b"])
    assert [(e.run, e.epoch) for e in epochs] == [
        *(("a", 1), ("a", 2), ("a", 3)),
        *(("b", 1), ("b", 2)),
    ]
    assert [e.audio_hours for e in epochs] == [2, 4, 6, 11, 16]
    assert [e.wer for e in epochs] == [1, 1 / 2, 1 / 3, 1, 1 / 2]
    hours = [e.hours for e in epochs]
    assert hours == sorted(hours)
    assert 0 < hours[-1] < 0.5 / 3600, "the pause between two calls is none of the training's time"


def test_older_runs_have_the_hours_that_they_printed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2, hours=None)
    write_run(tmp_path / "b", 1)
    runs = [tmp_path / "a", tmp_path / "b"]
    assert [e.audio_hours for e in curve.read_runs(runs)] == [None] * 3, "unknown, and so the sum"
    (tmp_path / "a" / "train.log").write_text(
        "Model: 7.9 M parameters. Training set: 34557 utterances, 42.35 h. 1 process(es)\n"
    )
    assert [e.audio_hours for e in curve.read_runs(runs)] == pytest.approx([42.35, 84.7, 86.7])


def test_a_training_leaves_what_the_curve_needs(tmp_path: Path) -> None:
    tones = write_tones(tmp_path / "tones", 4)
    train(tiny_task(tmp_path / "run", tones, epochs=2))
    one, two = curve.read_runs([tmp_path / "run"])
    assert 0 < one.hours < two.hours < 1
    once = sum(utterance.seconds for utterance in tones) / 3600
    assert (one.audio_hours, two.audio_hours) == pytest.approx((once, 2 * once))


def test_the_curve_goes_into_the_results(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3)
    picture = tmp_path / "curve.png"
    run_folder = str(tmp_path / "a")
    code, found = run(checkpoint, data, "--picture", str(picture), "--curve", run_folder)
    assert code == 0
    assert [epoch["epoch"] for epoch in found["training"]] == [1, 2, 3]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_run_is_refused(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    assert run(checkpoint, data, "--curve", str(tmp_path / "none")) == (2, {})
    assert "is no folder of a run" in one_line(capsys.readouterr().err)
    with Metrics(tmp_path / "begun") as metrics:
        metrics.write("step", 1, {"loss": 1.0})
    assert run(checkpoint, data, "--curve", str(tmp_path / "begun"))[0] == 2
    assert "finished an epoch" in one_line(capsys.readouterr().err)
    write_run(tmp_path / "bare", 1)
    shutil.rmtree(tmp_path / "bare" / "tensorboard")
    assert run(checkpoint, data, "--curve", str(tmp_path / "bare"))[0] == 2
    assert "TensorBoard" in one_line(capsys.readouterr().err)


# Latency


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are no matter here, and take most of the time."""
    monkeypatch.setattr(scoring, "RESAMPLES", 10)


def run_latency(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "latency" / "latency.json"
    common = ["--device", "cpu", "--threads", "1", "--live-seconds", "0.5"]
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--output", str(results)]
    code = latency.main([*command, *common, "--source-rate", "48000", *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


@pytest.mark.usefixtures("few_resamples")
def test_every_operating_point_is_measured(checkpoint: Path, data: Path, capsys) -> None:
    code, found = run_latency(checkpoint, data, "--latency", "500", "160", "--split", "320")
    assert code == 0
    points = found["points"]
    assert [(point["chunk"], point["right"]) for point in points[:3]] == [(1, 0), (2, 1), (6, 6)]
    assert [point["latency_ms"] for point in points] == pytest.approx([55, 135, 495, None])
    shares = found["splits"]["320"]
    assert [(share["chunk"], share["right"]) for share in shares] == [
        (7, 0),
        (6, 1),
        (4, 3),
        (2, 5),
    ]

    recognizer = Recognizer.load(checkpoint)
    for point, milliseconds in ((points[1], 160), (shares[2], 320)):
        recognizer.set_operating_point(milliseconds, endpoint=None)
        utterances = read_manifest(data / "dev-near.jsonl")
        texts = {u.id: recognizer.transcribe(u.audio).text for u in utterances}
        report = score({u.id: u.text for u in utterances}, texts, "english")
        assert point["sets"]["near"]["greedy"]["wer"] == report.wer
    whole = run(checkpoint, data)[1]["sets"]
    for name, rates in points[-1]["sets"].items():
        assert rates["greedy"]["substitutions"] == whole[name]["greedy"]["substitutions"]
    assert points[0]["sets"] != points[-1]["sets"], "the latency acts"

    wait = found["resampler_ms"]["48000"]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["135", f"{135 + wait:.0f}", "2", "+", "1"] in [row[:5] for row in rows]
    assert (data / "latency" / "latency.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("few_resamples")
def test_a_forward_encoder_has_one_point(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    forward = write_model(tmp_path / "forward.pt", "forward")
    code, found = run_latency(checkpoint, data, "--forward", str(forward), "--split")
    assert code == 0
    alone = run_latency(forward, data)[1]
    assert [alone["points"][0]["sets"], alone["splits"]] == [found["forward"]["sets"], {}]
    assert len(alone["points"]) == 1
    assert (found["forward"]["chunk"], found["forward"]["latency_ms"]) == (1, pytest.approx(55))
    capsys.readouterr()
    assert run_latency(checkpoint, data, "--forward", str(checkpoint))[0] == 2
    assert "latency_controlled" in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("few_resamples")
def test_latency_with_a_language_model(checkpoint: Path, data: Path) -> None:
    model = str(data / "language-model-small.lm")
    code, found = run_latency(checkpoint, data, "--lm", model, "--latency", "160", "--split")
    assert code == 0
    assert found["decoder"]["alpha"] == 0.7
    whole = run(checkpoint, data, "--profile", "english")[1]["sets"]
    for name, rates in found["points"][-1]["sets"].items():
        assert list(rates) == ["greedy", "beam"]
        for kind in rates:
            assert rates[kind]["wer"] == whole[name][kind]["wer"]


@pytest.mark.usefixtures("few_resamples")
def test_latency_refuses_in_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    both = write_model(tmp_path / "both.pt", "bidirectional")
    for model, arguments, named in (
        (checkpoint, ["--latency", "20"], "20 ms is impossible"),
        (checkpoint, ["--split", "20"], "20 ms is impossible"),
        (checkpoint, ["--manifest", "x=no-such.jsonl"], "no-such.jsonl"),
        (both, [], "bidirectional"),
    ):
        assert run_latency(model, data, *arguments) == (2, {})
        assert named in one_line(capsys.readouterr().err)
    (data / "near1.wav").write_bytes(b"no audio")
    code, found = run_latency(checkpoint, data, "--latency", "160", "--split")
    assert (code, found["unread"]) == (1, ["near, near1"])
    assert "near, near1: " in capsys.readouterr().err


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_no_sound_waits_longer_in_the_resampler(rate: int) -> None:
    wait = latency.resampler_wait(rate, RATE)
    assert 0.01 < wait < 0.2
    resampler = Resampler(rate, RATE)
    done = 0
    for seconds in (0.5, 0.013, 0.001, 0.25, 0.077, 0.4):
        done += len(resampler.feed(np.zeros(round(seconds * rate), np.float32)))
    taken = sum(round(s * rate) for s in (0.5, 0.013, 0.001, 0.25, 0.077, 0.4)) / rate
    assert taken - done / RATE <= wait + 1 / rate
    assert latency.resampler_wait(RATE, RATE) == 0


# Long recordings


def run_long(checkpoint: Path, data: Path, *more: str) -> tuple[int, dict]:
    results = data / "long" / "results.json"
    command = ["--checkpoint", str(checkpoint), "--manifest", str(data / "dev-near.jsonl")]
    common = ["--device", "cpu", "--threads", "1", "--output", str(results)]
    code = long_audio.main([*command, *common, *more])
    return code, json.loads(results.read_text()) if results.exists() else {}


def test_a_long_recording_and_a_long_stream(checkpoint: Path, data: Path, capsys) -> None:
    code, found = run_long(checkpoint, data, "--hours", "0.015", "--stream-hours", "0.04")
    rows = found["text"]
    assert [(row["latency"], row["endpoints"]) for row in rows] == [
        ("default", True),
        ("default", False),
        ("640 ms", True),
        ("640 ms", False),
    ]
    assert all(len(row["parts_long_percent"]) == 10 for row in rows)
    assert code == int(rows[0]["worse_percent"] > 1)
    stream = found["stream"]
    assert len(stream["resident_mb"]) == 4
    assert stream["settled"] == 1
    assert stream["growth_mb"] == max(stream["resident_mb"][1:]) - stream["resident_mb"][1]
    assert (data / "long" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "Growth after minute 1" in capsys.readouterr().out


def test_the_long_recording_is_what_it_says(data: Path, tmp_path: Path) -> None:
    arguments = ["--hours", "0.01", "--pause", "0.5", "0.8", "--floor", "-70"]
    options = long_audio.parse(arguments)
    utterances = read_manifest(data / "dev-far.jsonl")
    recording = long_audio.write(tmp_path / "long.wav", utterances, RATE, options)
    samples, rate = soundfile.read(tmp_path / "long.wav")
    assert rate == RATE
    assert recording.seconds == len(samples) / RATE >= 36
    assert recording.places == [number % 3 for number in range(len(recording.places))]
    assert len(recording.cuts) == len(recording.places) - 1
    for cut in recording.cuts:
        pause = samples[round((cut - 0.2) * RATE) : round((cut + 0.2) * RATE)]
        assert 20 * np.log10(pause.std()) == pytest.approx(-70, abs=1)
    begin = len(samples[: round(recording.cuts[0] * RATE)])
    assert samples[: RATE // 2].std() == pytest.approx(0.1, rel=0.05), "the first recording"
    assert 0.5 + 0.25 <= begin / RATE <= 0.5 + 0.4


def test_words_belong_to_where_their_middle_is() -> None:
    words = tuple(
        Word(text, start, end, 1.0)
        for text, start, end in [("a", 0.0, 0.9), ("b", 0.8, 1.5), ("c", 1.9, 2.5), ("d", 4.0, 4.1)]
    )
    hypothesis = Hypothesis("a b c d", words, 1.0, 0.0)
    assert long_audio.divide(hypothesis, [1.0, 2.0, 3.0]) == ["a", "b", "c", "d"]
    assert long_audio.divide(hypothesis, [2.5]) == ["a b c", "d"]
    assert long_audio.edges(25)[:3] == [0, 2, 5]
    assert long_audio.edges(3) == [0, 1, 2, 3]


def test_long_audio_refuses_in_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, capsys
) -> None:
    both = write_model(tmp_path / "both.pt", "bidirectional")
    for model, arguments, named in (
        (both, [], "bidirectional"),
        (checkpoint, ["--latency", "20"], "20 ms is impossible"),
        (checkpoint, ["--silence", "-1"], "endpoint.silence"),
        (checkpoint, ["--manifest", "no-such.jsonl"], "no-such.jsonl"),
    ):
        assert run_long(model, data, *arguments) == (2, {})
        assert named in one_line(capsys.readouterr().err)
    for arguments in (["--hours", "0", "--stream-hours", "0"], ["--pause", "2", "1"]):
        with pytest.raises(SystemExit, match="2"):
            long_audio.parse(arguments)


# The real corpora


def test_real_rooms(shared: Path) -> None:
    rooms = {path.stem for path in (shared / "rir").iterdir() if prepare.is_room(path)}
    assert {"kitchen-true-stereo", "omni-35-10", "binaural-s3_r4_bd"} <= rooms
    assert not rooms & {"diffusor3", "echo-chamber", "spatialized1", "tim-warehouse-stretch1"}


def test_real_corpora(shared: Path, tmp_path: Path, capsys) -> None:
    ocean = tmp_path / "ocean"
    shutil.copytree(shared / "speechocean762" / "dev", ocean / "dev")
    small = ocean / "train"  # the first twenty
    small.mkdir(parents=True)
    for name in ("text", "utt2spk", "wav.scp"):
        lines = (shared / "speechocean762" / "train" / name).read_text().splitlines()[:20]
        here = f"{shared}/speechocean762/train/wav/"
        (small / name).write_text("\n".join(lines).replace(" wav/", f" {here}") + "\n")
    options = ["--librispeech", str(shared / "LibriSpeech"), "--train", "train-mini/1462"]
    options += ["--dev", "dev-mini", "--speechocean", str(ocean), "--output", str(tmp_path / "out")]
    assert prepare.main(options) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["librispeech", "dev", "115", "0.27", "2", "0"] in rows
    assert ["speechocean", "dev", "160", "0.19", "8", "0"] in rows
    assert len(read_manifest(tmp_path / "out" / "train.jsonl")) > 20
