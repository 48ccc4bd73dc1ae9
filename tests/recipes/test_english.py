"""The recipe for English: three corpora become one training set, noise, rooms, language models."""

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from english import RANDOM, RATE, one_line, write_noise
from files import write_wav
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load
from omegaconf import OmegaConf
from project import ROOT

from asr.data.manifest import Utterance, read_manifest
from asr.lm.model import LanguageModel
from asr.recipe import Experiment

prepare = load(ROOT / "recipes" / "english" / "prepare.py")
evaluate = load(ROOT / "recipes" / "english" / "evaluate.py")


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
    assert "contains no recording" in complaint("--rir", str(tmp_path / "empty"))


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
    assert "1 left out, not ordinary rooms: cave.wav" in capsys.readouterr().out
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


# Labels


def test_labels_of_which_the_recognizer_was_sure_are_used(
    corpora: list[str], output: Path, tmp_path: Path, capsys
) -> None:
    clips = tmp_path / "clips"
    rows = {
        "a.mp3": "2.50\tWe see it, mostly.\t-0.1\t0.0\t1.0",
        "b.mp3": "2.50\tUnsure words.\t-0.31\t0.0\t1.0",
        "c.mp3": "2.50\tAt 10:30 it rained.\t-0.1\t0.0\t1.0",
        "d.mp3": "2.50\tThe sea.\t-0.1\t0.0\t1.0",  # a sentence of the dev set
        "e.mp3": "2.50\tNo recording.\t-0.1\t0.0\t1.0",
        "f.mp3": "2.50\tso so so so so\t-0.1\t0.0\t3.0",
        "g.mp3": "2.50\tthank you\t-0.1\t0.9\t1.0",
        "h.mp3": "nan\tforever\t-0.1\t0.0\t1.0",
        "i.mp3": "1.00\tIt rains 3 times.\t-0.3\t0.0\t1.0",
    }
    table = tmp_path / "labels.tsv"
    table.write_text("".join(f"elsewhere/{name}\t{row}\n" for name, row in rows.items()))
    for name in rows:
        if name != "e.mp3":
            write_wav(clips / name.replace("mp3", "wav")).rename(clips / name)
    assert prepare.main([*corpora, "--labels", str(table), "--clips", str(clips)]) == 0
    labeled = texts(output / "labeled.jsonl")
    train = texts(output / "train.jsonl")
    assert labeled == train | {"label-a": "we see it mostly", "label-i": "it rains three times"}
    found = {u.id: u for u in read_manifest(output / "labeled.jsonl")}
    assert Path(found["label-a"].audio) == clips / "a.mp3"
    out = capsys.readouterr().out
    assert f"{table}: 2 recordings, 0.00 hours; 1 left out as sentences of a dev set" in out
    for reason in ("log-probability below -0.3", "digits", "missing", "repeats", "duration"):
        assert reason in out


@pytest.mark.parametrize(
    ("content", "named"),
    [("a.mp3\t1.0\ttext\n", "line 1 is not a label"), ("a\t1\tb\t0\t0\t1\n" * 2, "occurs twice")],
)
def test_a_table_that_is_no_labels_is_refused(
    corpora: list[str], tmp_path: Path, capsys, content: str, named: str
) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text(content)
    assert prepare.main([*corpora, "--labels", str(table), "--clips", str(tmp_path)]) == 2
    assert named in one_line(capsys.readouterr().err)


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


# Configuration


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
