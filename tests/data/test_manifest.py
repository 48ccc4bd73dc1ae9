"""Manifests, corpus readers, the planner and the loader."""

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.augment import UNCHANGED, AugmentConfig, Augmenter, Timing
from asr.data.corpora import read_common_voice, read_folder, read_kaldi, read_librispeech
from asr.data.loading import Batch, Example, SpeechDataset, collate, load_batches
from asr.data.manifest import Reject, Utterance, read_manifest, summarize_rejects, write_manifest
from asr.data.planning import Planner
from asr.errors import AudioError, DataError, FileError, TextError
from asr.features import FeaturesConfig, LogMel
from asr.text import Vocabulary

ENGLISH = Vocabulary.english()


def write_wav(path: Path, seconds: float = 0.2, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000))
    soundfile.write(path, noise, 16_000)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Manifests

GOOD = {"audio_filepath": "a.wav", "duration": 1.5, "text": "one"}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(
        st.tuples(
            WORDS,
            WORDS.filter(str.strip),
            st.floats(1e-3, 1e5),
            st.sampled_from(["here/x y.wav", "../there/é.flac", "{folder}/z.mp3", "/far/z.mp3"]),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        min_size=1,
        unique_by=lambda row: row[0],
    )
)
@settings(deadline=None, max_examples=50)
def test_a_written_manifest_reads_back_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    utterances = [
        Utterance(name, os.path.abspath(folder / audio.format(folder=folder)), seconds, text, who)
        for name, text, seconds, audio, who in rows
    ]
    write_manifest(folder / "train.jsonl", utterances)
    assert read_manifest(folder / "train.jsonl") == utterances
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]


def test_a_manifest_moves_with_its_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav(tmp_path / "corpus" / "audio" / "x.wav")
    monkeypatch.chdir(tmp_path)
    write_manifest("corpus/train.jsonl", [Utterance("x", "corpus/audio/x.wav", 0.2, "one")])
    (tmp_path / "corpus").rename(tmp_path / "moved")
    (utterance,) = read_manifest(tmp_path / "moved" / "train.jsonl")
    assert utterance.audio == str(tmp_path / "moved" / "audio" / "x.wav")


def test_nemo_manifests_are_read_as_they_are(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": "wav/a.b.wav", "duration": 2, "text": "One, two", "lang": "en"},
        {**GOOD, "audio_filepath": "/data/c.flac", "offset": 0.0, "speaker": 17},
        {**GOOD, "id": "u3", "speaker": "anna", "offset": None},
    ]
    path = tmp_path / "nemo.json"
    text = "\r\n\r\n".join(json.dumps(line) for line in lines)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")  # as Windows writes it
    assert read_manifest(path) == [
        Utterance("a.b", str(tmp_path / "wav/a.b.wav"), 2.0, "One, two", ""),
        Utterance("c", "/data/c.flac", 1.5, "one", "17"),
        Utterance("u3", str(tmp_path / "a.wav"), 1.5, "one", "anna"),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ('{"duration": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"duration": 1.0, "text": "x"}, 'line 2 has no "audio_filepath"'),
        ({**GOOD, "audio_filepath": 3}, 'line 2: "audio_filepath" is 3; it must be a string'),
        ({**GOOD, "audio_filepath": ""}, "line 2 (utterance ''): \"audio_filepath\" is ''"),
        ({**GOOD, "id": 3}, 'line 2: "id" is 3; it must be a string'),
        ({"audio_filepath": "b.wav", "text": "x"}, "line 2 (utterance 'b') has no \"duration\""),
        ({**GOOD, "duration": "1.5"}, "(utterance 'a'): \"duration\" is '1.5'; it must be a numb"),
        ({**GOOD, "duration": True}, '"duration" is True; it must be a number'),
        ({**GOOD, "duration": None}, '"duration" is None; it must be a number'),
        ({**GOOD, "duration": 0}, '"duration" is 0; it must be the seconds, above 0'),
        ({**GOOD, "duration": -2.5}, '"duration" is -2.5'),
        ({**GOOD, "duration": math.nan}, '"duration" is nan'),
        ({**GOOD, "duration": math.inf}, '"duration" is inf'),
        ({**GOOD, "duration": 10**400}, '"duration" is 1000'),
        (
            {"audio_filepath": "a.wav", "duration": 1.0, "id": "u"},
            "(utterance 'u') has no \"text\"",
        ),
        ({**GOOD, "text": 7}, '"text" is 7; it must be a string'),
        ({**GOOD, "text": " \t"}, "line 2 (utterance 'a'): \"text\" is empty"),
        ({**GOOD, "offset": 1.5}, '"offset" is 1.5, but only whole recordings can be read'),
        ({**GOOD, "speaker": ["x"]}, "\"speaker\" is ['x']; it must be a string"),
        ({**GOOD, "id": "first"}, "line 2: the id 'first' is already that of line 1"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(
    tmp_path: Path, line: str | dict[str, object], sentence: str
) -> None:
    path = tmp_path / "m.jsonl"
    second = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps({**GOOD, "id": "first"}) + "\n" + second + "\n")
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2")
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message


def test_manifests_that_are_no_text_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: No such file"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path)
    empty = write_text(tmp_path / "empty.jsonl", "\n \n")
    with pytest.raises(DataError, match=r"empty\.jsonl holds no utterance"):
        read_manifest(empty)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl, line 2 is not UTF-8 text"):
        read_manifest(latin)


def test_a_manifest_is_written_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.jsonl"
    write_manifest(path, [Utterance("a", "a.wav", 1.0, "one")])
    before = path.read_bytes()

    def break_off() -> Iterator[Utterance]:
        yield Utterance("b", "b.wav", 1.0, "two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, break_off())
    with pytest.raises(DataError, match=r"a name in it, '.*\\udce9.*rename the file"):
        write_manifest(path, [Utterance("x", os.fsdecode(b"/a/\xe9.wav"), 1.0, "one")])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileError, match=r"m\.jsonl/below/m\.jsonl could not be written"):
        write_manifest(path / "below" / "m.jsonl", [])


# Corpora


def by_id(rejects: list[Reject]) -> dict[str, str]:
    assert len({reject.id for reject in rejects}) == len(rejects)
    return {reject.id: reject.reason for reject in rejects}


def test_read_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "dev" / "84" / "121"
    for name in ("84-121-0000.wav", "84-121-0001.flac", "84-121-0004.wav", "84-121-0005.wav"):
        write_wav(chapter / name, 0.25)
    write_wav(chapter / "84-121-0005.flac")
    write_wav(tmp_path / "dev" / "85" / "85-1-0000.wav")
    write_text(chapter / "84-121-0003.wav", "not audio")
    lines = ["0000 GO  ON\tNOW", "0001 Yes", "0002 GONE", "0003 X", "0004  ", "0005 TWO", "0000 NO"]
    write_text(chapter / "84-121.trans.txt", "".join(f"84-121-{line}\n" for line in lines))
    (chapter / "._84-121.trans.txt").write_bytes(b"\xff\xfe")  # macOS metadata

    utterances, rejects = read_librispeech(tmp_path)
    assert utterances == [
        Utterance("84-121-0000", str(chapter / "84-121-0000.wav"), 0.25, "go on now", "84"),
        Utterance("84-121-0001", str(chapter / "84-121-0001.flac"), 0.25, "yes", "84"),
    ]
    assert Counter((reject.id, reject.reason) for reject in rejects) == Counter(
        [
            ("84-121-0002", "audio missing"),
            ("84-121-0003", "audio unreadable"),
            ("84-121-0004", "empty text"),
            ("84-121-0005", "several recordings"),
            ("84-121-0000", "id occurs twice"),
            ("85-1-0000", "transcript missing"),
        ]
    )
    details = {reject.id: reject.detail for reject in rejects}
    assert details["84-121-0005"] == "84-121-0005.flac, 84-121-0005.wav"
    assert "84-121-0003.wav" in details["84-121-0003"]

    with pytest.raises(DataError, match=r"No transcript \*\.trans\.txt lies below"):
        read_librispeech(tmp_path / "dev" / "85")
    with pytest.raises(DataError, match="none is not a folder"):
        read_librispeech(tmp_path / "none")
    with pytest.raises(TextError, match="profile"):
        read_librispeech(tmp_path, profile="plane")


def test_read_common_voice(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_wav(tmp_path / "clips" / f"{name}.wav", 0.25)
    rows = [
        "client_id\tpath\tsentence\tage",
        's1\ta.wav\t"Hello," he said\t',  # an opening quotation mark is not the csv kind
        's2\tb.wav\tShe said "hi\t30',
        "s3\tc.wav\t?!\t",
        "s4\tgone.wav\tGone.\t",
        "s5",
        "s1\ta.wav\tAgain.\t",
    ]
    tsv = write_text(tmp_path / "train.tsv", "\n".join(rows) + "\n")
    utterances, rejects = read_common_voice(tsv)
    assert utterances == [
        Utterance("a", str(tmp_path / "clips" / "a.wav"), 0.25, "hello he said", "s1"),
        Utterance("b", str(tmp_path / "clips" / "b.wav"), 0.25, "she said hi", "s2"),
    ]
    assert by_id(rejects) == {
        "c": "empty text",
        "gone": "audio missing",
        "line 6": "columns missing",
        "a": "id occurs twice",
    }

    with pytest.raises(DataError, match=r"does not begin with the names of the columns"):
        read_common_voice(write_text(tmp_path / "bad.tsv", "a.wav\thello\n"))
    with pytest.raises(DataError, match=r"none\.tsv cannot be read"):
        read_common_voice(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="clips is not a folder"):
        read_common_voice(write_text(tmp_path / "elsewhere" / "t.tsv", "path\tsentence\n"))


def test_read_kaldi(tmp_path: Path) -> None:
    write_wav(tmp_path / "wav" / "a b.wav", 0.25)
    far = write_wav(tmp_path / "far" / "c.wav", 0.25)
    folder = tmp_path / "data"
    scp = write_text(
        folder / "wav.scp",
        f"u1 ../wav/a b.wav\nu2\t{far}\nu3 sph2pipe x.sph |\nu4 gone.wav\nu5 {far}\nu6 {far}\n",
    )
    write_text(folder / "text", "u1 ZERO  ONE\nu2 Two\nu3 X\nu4 X\nu5\nu7 X\n")
    write_text(folder / "utt2spk", "u1 anna\nu2 bert\n")
    utterances, rejects = read_kaldi(folder)
    assert utterances == [
        Utterance("u1", str(folder / "../wav/a b.wav"), 0.25, "zero one", "anna"),
        Utterance("u2", str(far), 0.25, "two", "bert"),
    ]
    assert by_id(rejects) == {
        "u3": "audio is a command",
        "u4": "audio missing",
        "u5": "empty text",
        "u6": "transcript missing",
        "u7": "audio missing",
    }

    (folder / "utt2spk").unlink()
    assert [utterance.speaker for utterance in read_kaldi(folder)[0]] == ["", ""]
    scp.write_text("u1 a.wav\nu1 b.wav\n")
    with pytest.raises(DataError, match=r"wav\.scp, line 2: 'u1' is listed twice"):
        read_kaldi(folder)
    scp.unlink()
    with pytest.raises(DataError, match=r"wav\.scp cannot be read"):
        read_kaldi(folder)
    write_text(folder / "segments", "u1 a 0 1\n")
    with pytest.raises(DataError, match="segments cuts utterances out of longer recordings"):
        read_kaldi(folder)


def test_read_folder(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", 0.25)
    write_wav(tmp_path / "anna" / "x.wav", 0.25)
    write_wav(tmp_path / "anna" / "y.1.wav")
    write_text(tmp_path / "x.txt", "Turn\nLEFT\n")
    write_text(tmp_path / "anna" / "x.txt", "Right")
    write_text(tmp_path / "README.txt", "About this corpus")
    utterances, rejects = read_folder(tmp_path)
    assert sorted(utterances, key=lambda utterance: utterance.id) == [
        Utterance("anna/x", str(tmp_path / "anna" / "x.wav"), 0.25, "right", "anna"),
        Utterance("x", str(tmp_path / "x.wav"), 0.25, "turn left"),
    ]
    assert by_id(rejects) == {"README": "audio missing", "anna/y.1": "transcript missing"}

    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none holds no recording"):
        read_folder(tmp_path / "none")
    (tmp_path / "x.txt").write_bytes(b"\xe9")
    with pytest.raises(DataError, match=r"x\.txt, line 1 is not UTF-8"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("read", "corpus", "utterances", "speakers", "hours"),
    [
        (read_librispeech, "LibriSpeech/dev-mini", 115, 2, 0.27),
        (read_common_voice, "CommonVoice/en/dev.tsv", 117, 35, 0.18),
        (read_kaldi, "speechocean762/dev", 160, 8, 0.19),
    ],
)
def test_real_corpora_are_read_whole(
    shared: Path,
    read: Callable[[Path], tuple[list[Utterance], list[Reject]]],
    corpus: str,
    utterances: int,
    speakers: int,
    hours: float,
) -> None:
    found, rejects = read(shared / corpus)
    assert (len(found), rejects) == (utterances, [])
    assert len({utterance.speaker for utterance in found}) == speakers
    assert round(sum(utterance.seconds for utterance in found) / 3600, 2) == hours


def test_summarize_rejects() -> None:
    rejects = [Reject(f"u{i}", "too long", f"{i} s") for i in range(5)]
    rejects.insert(2, Reject("x", "empty text"))
    assert summarize_rejects(rejects) == (
        "5 left out, too long: u0 (0 s), u1 (1 s), u2 (2 s), ...\n1 left out, empty text: x"
    )
    assert summarize_rejects([]) == ""


# Batches


def test_collate_pads_with_zeros() -> None:
    examples = [
        Example("a", "x", torch.ones(3, 2), torch.tensor([5])),
        Example("b", "yz", torch.full((4, 2), 2.0), torch.tensor([6, 7])),
    ]
    batch = collate(examples, 2, symbols=9, epoch=1, step=4)
    assert (batch.ids, batch.texts) == (["a", "b"], ["x", "yz"])
    assert (batch.symbols, batch.epoch, batch.step) == (9, 1, 4)
    assert batch.features.dtype == torch.float32
    assert batch.features[:, :, 0].tolist() == [[1, 1, 1, 0], [2, 2, 2, 2]]
    assert batch.targets.tolist() == [[5, 0], [6, 7]]
    assert (batch.feature_lengths.tolist(), batch.target_lengths.tolist()) == ([3, 4], [1, 2])
    integers = (batch.targets, batch.feature_lengths, batch.target_lengths)
    assert {tensor.dtype for tensor in integers} == {torch.int64}
    assert collate([], 80, symbols=3).features.shape == (0, 0, 80)


class Corpus:
    """Nine short recordings and everything that loads them, with every kind of damage on."""

    def __init__(self, folder: Path) -> None:
        words = "one two three four five six seven eight nine".split()
        self.utterances = [
            Utterance(
                word, str(write_wav(folder / f"{word}.wav", 0.3 + 0.1 * i, i)), 0.3 + 0.1 * i, word
            )
            for i, word in enumerate(words)
        ]
        write_wav(folder / "noise" / "n.wav", 0.5, 99)
        self.targets = [ENGLISH.encode(word) for word in words]
        self.lengths = [len(word) for word in words]
        self.log_mel = LogMel(FeaturesConfig())
        self.config = AugmentConfig(
            noise_folder=str(folder / "noise"),
            reverb_folder=str(folder / "noise"),
            gain_db=6.0,
            silence_seconds=0.2,
            tempo=0.1,
            mel_shift=3.0,
        )
        self.planner = Planner(
            [utterance.seconds for utterance in self.utterances],
            words,
            batch_seconds=1.5,
            augment=self.config,
            seed=5,
        )

    def dataset(self, seed: int = 5) -> SpeechDataset:
        augmenter = Augmenter(self.config, 16_000)
        return SpeechDataset(self.utterances, self.lengths, ENGLISH, self.log_mel, augmenter, seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("features", "feature_lengths", "targets", "target_lengths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("ids", "texts", "symbols", "epoch", "step"):
            assert getattr(one, name) == getattr(other, name), name


def test_batches_follow_the_plan_and_hold_the_examples(corpus: Corpus) -> None:
    dataset = corpus.dataset()
    batches = list(load_batches(dataset, corpus.planner, range(2)))
    plans = [corpus.planner.epoch(0), corpus.planner.epoch(1)]
    steps = [(epoch, step) for epoch in (0, 1) for step in range(len(plans[epoch]))]
    assert [(batch.epoch, batch.step) for batch in batches] == steps
    for batch in batches:
        plan = plans[batch.epoch]
        indices = plan.batches[batch.step]
        assert batch.ids == batch.texts == [corpus.utterances[i].id for i in indices]
        for row, index in enumerate(indices):
            example = dataset[batch.epoch, int(index), plan.timing(index)]
            frames, symbols = len(example.features), len(example.target)
            assert example.target.tolist() == corpus.targets[index]
            assert torch.equal(batch.features[row, :frames], example.features)
            assert not batch.features[row, frames:].any()
            assert batch.targets[row, :symbols].tolist() == corpus.targets[index]
            assert not batch.targets[row, symbols:].any()
            assert batch.feature_lengths[row] == frames
            assert batch.target_lengths[row] == symbols


def test_a_run_goes_on_where_it_stopped(corpus: Corpus) -> None:
    whole = list(load_batches(corpus.dataset(), corpus.planner, range(3)))
    second = [(batch.epoch, batch.step) for batch in whole].index((1, 2))
    rest = list(load_batches(corpus.dataset(), corpus.planner, range(1, 3), first_step=2))
    assert_same(whole[second:], rest)
    finished = len(corpus.planner.epoch(1))
    rest = list(load_batches(corpus.dataset(), corpus.planner, range(1, 3), first_step=finished))
    assert {batch.epoch for batch in rest} == {2}


@pytest.mark.parametrize(
    "damage",
    [{"gain_db": 6.0, "time_masks": 0, "mel_masks": 0}, {"mel_masks": 2}],
    ids=["waveform", "features"],
)
def test_damage_depends_on_seed_epoch_and_utterance_alone(
    corpus: Corpus, damage: dict[str, float]
) -> None:
    def make(seed: int) -> SpeechDataset:
        augmenter = Augmenter(AugmentConfig(**damage), 16_000)  # type: ignore[arg-type]
        return SpeechDataset(
            corpus.utterances, corpus.lengths, ENGLISH, corpus.log_mel, augmenter, seed
        )

    dataset = make(5)
    features = dataset[3, 4, UNCHANGED].features
    assert not torch.equal(dataset[4, 4, UNCHANGED].features, features)
    assert not torch.equal(make(6)[3, 4, UNCHANGED].features, features)
    assert torch.equal(dataset[3, 4, UNCHANGED].features, features)
    assert torch.equal(make(5)[3, 4, UNCHANGED].features, features)
    dataset.utterances = [replace(utterance, id="other") for utterance in corpus.utterances]
    assert not torch.equal(dataset[3, 4, UNCHANGED].features, features)


def test_without_an_augmenter_features_are_those_of_the_recording(corpus: Corpus) -> None:
    log_mel = LogMel(FeaturesConfig(mels=40))
    dataset = SpeechDataset(corpus.utterances, corpus.lengths, ENGLISH, log_mel)
    waveform, _ = soundfile.read(corpus.utterances[2].audio, dtype="float32")
    expected = log_mel(torch.from_numpy(waveform))
    log_mel.mean += 1  # what happens to the model's own must not reach the data
    example = dataset[0, 2, UNCHANGED]
    torch.testing.assert_close(example.features, expected, rtol=1e-5, atol=1e-5)
    assert len(dataset[0, 2, Timing(0.5)].features) == pytest.approx(2 * len(expected), abs=3)
    assert not example.features.requires_grad
    assert len(dataset) == 9


@pytest.mark.parametrize("processes", [2, 20])
def test_processes_share_the_same_global_batches(corpus: Corpus, processes: int) -> None:
    """Also where a global batch has fewer utterances than there are processes."""
    dataset = corpus.dataset()
    whole = list(load_batches(dataset, corpus.planner, range(1)))
    parts = [
        list(load_batches(dataset, corpus.planner, range(1), rank=rank, processes=processes))
        for rank in range(processes)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(name for share in shares for name in share.ids) == sorted(batch.ids)
        assert {share.symbols for share in shares} == {batch.symbols}
        assert batch.symbols == batch.target_lengths.sum()
        assert batch.symbols == sum(int(share.target_lengths.sum()) for share in shares)
        assert max(share.features.shape[1] for share in shares) == batch.features.shape[1]
        assert all(share.features.shape[2] == 80 for share in shares)


def test_workers_change_nothing(corpus: Corpus) -> None:
    """Law 3: bit for bit the same batches, across the end of an epoch, and no global state moved."""
    dataset = corpus.dataset()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        alone = list(load_batches(dataset, corpus.planner, range(2)))
        assert_same(alone, list(load_batches(dataset, corpus.planner, range(2), workers=2)))
        assert_same(alone[1:], list(load_batches(dataset, corpus.planner, range(2), 1, workers=1)))
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_recording_reaches_the_caller(
    corpus: Corpus, tmp_path: Path, workers: int
) -> None:
    dataset = corpus.dataset()
    dataset.utterances = [
        replace(utterance, audio=str(tmp_path / "gone.wav")) if utterance.id == "six" else utterance
        for utterance in corpus.utterances
    ]
    good = list(load_batches(corpus.dataset(), corpus.planner, [0]))
    bad = next(batch.step for batch in good if "six" in batch.ids)
    batches = load_batches(dataset, corpus.planner, [0], workers=workers)
    assert_same(good[:bad], [next(batches) for _ in range(bad)])
    with pytest.raises(AudioError) as caught:
        next(batches)
    assert "gone.wav" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_recording_that_is_shorter_than_it_should_be_is_refused(corpus: Corpus) -> None:
    utterances = [replace(corpus.utterances[0], seconds=0.36)]
    dataset = SpeechDataset(utterances, [3], ENGLISH, corpus.log_mel)
    with pytest.raises(AudioError, match=r"one\.wav"):
        dataset[0, 0, UNCHANGED]
    with pytest.raises(ValueError, match="2 target lengths for 1 utterances"):
        SpeechDataset(utterances, [3, 3], ENGLISH, corpus.log_mel)


def test_workers_outlive_an_interrupt_and_end_with_their_iterator(corpus: Corpus) -> None:
    batches = load_batches(corpus.dataset(), corpus.planner, range(50), workers=2)
    first = next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:  # as a terminal, `timeout` and Slurm do to all processes
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            os.kill(worker.pid or 0, number)
    rest = [next(batches) for _ in range(20)]
    alone = load_batches(corpus.dataset(), corpus.planner, range(50))
    assert_same([first, *rest], [next(alone) for _ in range(21)])
    batches.close()
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_a_data_error(corpus: Corpus) -> None:
    batches = load_batches(corpus.dataset(), corpus.planner, range(10**6), workers=1)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(DataError, match="process that reads recordings was lost"):
        list(batches)


TRAINER = """
import multiprocessing, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})

if __name__ == "__main__":
    from test_manifest import Corpus, load_batches
    corpus = Corpus(Path({folder!r}))
    batches = load_batches(corpus.dataset(), corpus.planner, range(10**6), workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_trainer(tmp_path: Path) -> None:
    script = write_text(
        tmp_path / "train.py",
        TRAINER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)),
    )
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python's resource tracker tells of the semaphores left behind
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        os.kill(worker, 0)
        trainer.kill()
    deadline = time.monotonic() + 5
    while _is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
