"""Indexed manifests: what direct reading gives, whatever happens to the file; admission; training."""

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpus import tiny_task, write_tones
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr import checkpoint
from asr import recipe as config
from asr.audio.containers import TOLERANCE_SECONDS
from asr.data import index
from asr.data import manifest as data
from asr.data.augment import AugmentConfig, Augmenter, Timing
from asr.data.corpora import read_librispeech
from asr.data.index import Index, index_utterances, open_index
from asr.data.loading import SpeechDataset
from asr.data.manifest import Reject, Utterance, read_manifest, write_manifest
from asr.data.planning import Planner, hash_id
from asr.data.selection import select_trainable
from asr.errors import ConfigError, DataError
from asr.features import FeaturesConfig, LogMel
from asr.runtime.distributed import RuntimeConfig, launch
from asr.text import Vocabulary, ctc_frames_needed, normalize
from asr.training.config import TrainingCallbacks
from asr.training.metrics import read_metrics
from asr.training.run import train

ENGLISH = Vocabulary.english()
NOW = [Utterance("a", "a.wav", 1.5, "One  two"), Utterance("é", "/far/b.wav", 2.0, "book", "7")]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "m.jsonl", NOW)
    return tmp_path / "m.jsonl"


def read_directly(path: Path) -> list[Utterance]:
    return [replace(u, text=normalize(u.text)) for u in read_manifest(path)]


def read_leniently(path: Path) -> tuple[str, list[Utterance]]:
    """What is wrong with a manifest, or what it holds."""
    try:
        return "", read_directly(path)
    except DataError as error:
        return str(error), []


def settle(path: Path) -> None:
    """As if it had been written long ago."""
    os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The manifests that have been indexed."""
    seen: list[Path] = []
    real = index._index_manifest

    def spy(output: object, aside: object, path: Path, advance: object) -> None:
        seen.append(path)
        real(output, aside, path, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "_index_manifest", spy)
    return seen


# What it holds

GOOD = st.builds(
    lambda **record: json.dumps(record, ensure_ascii=len(record["text"]) % 2 == 0),
    id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    audio_filepath=st.sampled_from(["x y.wav", "../é.flac", "/far/z.mp3"]),
    duration=st.floats(1e-3, 1e5) | st.integers(1, 99),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda text: normalize(text) != ""
    ),
    speaker=st.integers(0, 9) | st.text("ab é"),
)
BLANK = st.sampled_from(["", "  ", "\t"])
BAD = st.sampled_from(["{", "[1]", '{"audio_filepath": "a.wav"}', "\udcff"])


def write_lines(path: Path, lines: list[str], ending: str = "\n", mark: bool = False) -> Path:
    text = ending.join(lines)
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode("utf-8", "surrogateescape"))
    return path


@given(
    st.lists(GOOD | BLANK, max_size=12) | st.lists(GOOD | BLANK | BAD, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_an_index_is_what_direct_reading_gives_errors_included(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ending: str, mark: bool
) -> None:
    path = write_lines(tmp_path_factory.mktemp("m") / "m.jsonl", lines, ending, mark)
    sentence, expected = read_leniently(path)
    if sentence:
        with pytest.raises(DataError) as caught:
            open_index(path)
        assert str(caught.value) == sentence
        assert list(path.parent.iterdir()) == [path]
        return
    for found in (open_index(path), open_index(path)):  # made, and found again
        assert list(found) == expected
        assert len(found) == len(expected)
        assert found[-1] == expected[-1]
        assert list(found[1::2]) == expected[1::2]
        assert found.seconds.tolist() == [u.seconds for u in expected]
        assert found.hashes.tolist() == [hash_id(u.id) for u in expected]
        assert found.symbols.tolist() == [len(u.text) for u in expected]
        assert set(found.characters) == set("".join(u.text for u in expected))
        vocabulary = Vocabulary.from_transcripts([found.characters])
        assert found.frames_needed.tolist() == [
            ctc_frames_needed(vocabulary.encode(u.text)) for u in expected
        ]
    assert sorted(path.parent.iterdir()) == [path, path.with_name("m.jsonl.index")]


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_a_digest_is_that_of_the_chosen_utterances_as_ever(chosen: list[bool]) -> None:
    """Checkpoints hold it: the sum over what json.dumps makes of all (id, seconds, text)."""
    utterances = [
        Utterance(f'é"{number}', "a.wav", number / 7, f"word {number} \U0001f600", "s")
        for number in range(len(chosen))
    ]
    left = [u for u, choice in zip(utterances, chosen, strict=True) if choice]
    plain = json.dumps([(u.id, u.seconds, u.text) for u in left]).encode()
    found = index_utterances(utterances).select(np.array(chosen))
    assert found.digest() == hashlib.blake2b(plain, digest_size=16).hexdigest()
    assert index_utterances(left).digest() == found.digest()
    assert list(found) == left


def test_what_is_kept_is_not_changed_unnoticed(manifest: Path) -> None:
    """Another value here means that files which users have are wrong: raise index.FORMAT."""
    write_lines(
        manifest,
        [
            '{"audio_filepath": "a.wav", "duration": 2, "text": "İt\'s\\u2003ＡＢ e\\u0301"}',
            '{"id": "u", "audio_filepath": "b.wav", "duration": 0.1, "text": "SS ß ǅ"}',
        ],
    )
    found = open_index(manifest)
    assert index.FORMAT[0] == 1
    assert found.digest() == "28093f2cf0b2975fae82a02d8ed3b457"
    assert found.hashes.tolist() == [hash_id("a"), hash_id("u")]


def test_only_what_is_asked_for_is_read(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_index(manifest)
    found = open_index(manifest)
    read: list[int] = []
    real = index._Store.read
    monkeypatch.setattr(
        index._Store, "read", lambda store, number: read.append(number) or real(store, number)
    )
    Planner(found.seconds, found.hashes, 10.0).epoch(0)
    admitted, _ = select_trainable(found, ENGLISH, lambda samples: samples // 640)
    admitted.digest()
    assert read == []
    assert found[1].id == "é"
    assert read == [1]


def test_hashes_that_collide_are_no_ids_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (data, index):
        monkeypatch.setattr(module, "hash_id", lambda _: 5)
    path = tmp_path / "m.jsonl"
    utterances = [replace(NOW[0], id=f"{number}") for number in range(4)]
    write_manifest(path, utterances)
    assert [u.id for u in open_index(path)] == list("0123")
    with path.open("a") as file:
        file.write("\n" + json.dumps({"audio_filepath": "2.wav", "duration": 1, "text": "x"}))
    with pytest.raises(DataError, match="line 6: the id '2' is already that of line 3"):
        open_index(path)


def test_a_manifest_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: No such file"):
        open_index(tmp_path / "new" / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        open_index(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_index_moves_with_its_manifest(manifest: Path, builds: list[Path]) -> None:
    write_manifest(manifest, [replace(NOW[0], audio=str(manifest.parent / "a.wav"))])
    open_index(manifest)
    moved = manifest.parent.with_name("moved")
    manifest.parent.rename(moved)
    assert list(open_index(moved / "m.jsonl")) == read_directly(moved / "m.jsonl")
    assert open_index(moved / "m.jsonl")[0].audio == str(moved / "a.wav")
    assert len(builds) == 1


# Stale, damaged, unwritable


def same_size(path: Path) -> bytes:
    changed = path.read_bytes().replace(b"book", b"cook")
    assert changed != path.read_bytes()
    return changed


def test_a_change_is_noticed_even_where_size_and_time_are_kept(
    manifest: Path, builds: list[Path]
) -> None:
    settle(manifest)
    before = manifest.stat()
    assert open_index(manifest)[1].text == "book"
    manifest.write_bytes(same_size(manifest))
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_index(manifest)[1].text == "cook"
    assert len(builds) == 2


def test_a_change_at_the_time_of_indexing_is_noticed(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks rarely gives the change the times of what was indexed."""
    monkeypatch.setattr(index, "_times", lambda path: [path.stat().st_size, *2 * [time.time_ns()]])
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert open_index(manifest)[1].text == "book"
    manifest.write_bytes(same_size(manifest))
    assert open_index(manifest)[1].text == "cook"
    assert len(builds) == 2


def test_a_manifest_that_was_only_touched_or_copied_is_not_indexed_again(
    manifest: Path, builds: list[Path]
) -> None:
    open_index(manifest)
    os.utime(manifest, (1, 1))
    assert list(open_index(manifest)) == read_directly(manifest)
    manifest.write_bytes(manifest.read_bytes())
    assert list(open_index(manifest)) == read_directly(manifest)
    assert len(builds) == 1


def test_a_settled_manifest_is_not_read_again(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "UNSETTLED", -1.0)
    open_index(manifest)
    monkeypatch.setattr(index.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert list(open_index(manifest)) == read_directly(manifest)


def test_a_manifest_that_changes_while_it_is_indexed_is_indexed_again(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "UNSETTLED", -1.0)
    real = index.parse_manifest

    def parse(*arguments: object) -> object:
        yield from real(*arguments)  # type: ignore[arg-type]
        manifest.write_bytes(same_size(manifest))

    monkeypatch.setattr(index, "parse_manifest", parse)
    assert open_index(manifest)[1].text == "book"
    monkeypatch.setattr(index, "parse_manifest", real)
    assert open_index(manifest)[1].text == "cook"
    assert len(builds) == 2


@pytest.mark.parametrize("what", ["bit", "cut", "grown", "empty", "foreign"])
def test_a_damaged_index_is_made_again(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(index, "UNSETTLED", -1.0)  # else bytes depend on the time
    expected = list(open_index(manifest))
    file = manifest.with_name("m.jsonl.index")
    sound = file.read_bytes()
    generator = random.Random(0)
    places = range(len(sound)) if what == "bit" else generator.sample(range(1, len(sound)), 20)
    for place in places:
        damaged = bytearray(sound)
        if what == "bit":
            damaged[place] ^= 1 << generator.randrange(8)
        elif what == "cut":
            del damaged[place:]
        elif what == "grown":
            damaged[place:place] = b"\0"
        elif what == "empty":
            damaged = bytearray()
        else:
            damaged = bytearray(generator.randbytes(place))
        file.write_bytes(damaged)
        assert list(open_index(manifest)) == expected
        assert file.read_bytes() == sound
    assert len(builds) == 1 + len(places)


@pytest.mark.parametrize("change", [[2, "15.0.0"], [1, "99.0.0"]])
def test_an_index_of_another_version_is_made_again(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, change: list[object]
) -> None:
    open_index(manifest)
    monkeypatch.setattr(index, "FORMAT", change)
    open_index(manifest)
    open_index(manifest)
    assert len(builds) == 2


def test_where_the_folder_cannot_be_written_the_cache_serves(
    manifest: Path, builds: list[Path], cache: Path
) -> None:
    manifest.with_name("m.jsonl.index").mkdir()  # nobody, root included, can write this file
    for _ in range(2):
        assert list(open_index(manifest)) == read_directly(manifest)
    assert len(builds) == 2  # the first one failed
    (kept,) = (cache / "asr").iterdir()
    manifest.write_bytes(same_size(manifest))
    assert open_index(manifest)[1].text == "cook"
    assert list((cache / "asr").iterdir()) == [kept]


def test_where_nothing_can_be_written_memory_serves(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.with_name("m.jsonl.index").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(manifest))  # no folder
    found = open_index(manifest)
    assert list(found) == list(pickle.loads(pickle.dumps(found))) == read_directly(manifest)
    assert len(list(manifest.parent.iterdir())) == 2


def test_a_full_disk_leaves_the_old_index_and_no_part_of_the_new(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(manifest)
    file = manifest.with_name("m.jsonl.index")
    before = file.read_bytes()
    manifest.write_bytes(same_size(manifest))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert open_index(manifest)[1].text == "cook"
    assert file.read_bytes() == before
    assert sorted(manifest.parent.iterdir()) == [manifest, file]


# Several processes


def _open_together(path: Path, barrier: Barrier, results: Callable[[object], None]) -> None:
    barrier.wait()
    results((list(open_index(path)), os.getpid()))


def test_processes_that_index_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance(f"u{n}", f"{n}.wav", 1 + n / 7, f"w {n}") for n in range(3000)])
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_open_together, args=(path, barrier, queue.put)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    expected = read_directly(path)
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [utterances for utterances, _ in found] == 4 * [expected]
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "m.jsonl.index"]
    assert list(open_index(path)) == expected


def test_an_index_is_handed_to_a_process_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance(f"u{n}", f"{n}.wav", 1.0, f"w {n}") for n in range(3000)])
    found = open_index(path)
    handed = pickle.dumps(found)
    assert len(handed) < 1000
    chosen = found[::1000]
    for other in (pickle.loads(handed), pickle.loads(pickle.dumps(chosen))):
        assert isinstance(other, Index)
        assert list(other[:1]) == list(found[:1])
        assert other.digest() == (found if len(other) == 3000 else chosen).digest()
    write_manifest(path, [NOW[0]])
    assert len(found) == 3000
    assert found[2999].text == "w 2999"  # a snapshot
    open_index(path)
    with pytest.raises(DataError, match=r"m\.jsonl\.index was replaced while a training began"):
        pickle.loads(handed)


def test_a_large_manifest_is_indexed_under_a_bar(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.open_training_set(str(manifest))
    assert capsys.readouterr() == ("", "")  # a small one is not worth it
    monkeypatch.setattr(index, "TOLD_BYTES", 80)  # less than the first line, more than the other
    for rank, shown in (("1", ""), ("0", f"Indexing {manifest}: ")):
        manifest.with_name("m.jsonl.index").unlink()
        monkeypatch.setenv("RANK", rank)
        config.open_training_set(str(manifest))
        written = capsys.readouterr()
        assert written.out == ""
        assert written.err[: len(shown) or None] == shown
    assert written.err.splitlines()[-1].startswith(f"Indexing {manifest}: ")
    assert "(100 %) in" in written.err
    config.open_training_set(str(manifest))
    assert capsys.readouterr() == ("", "")


# Admission


def select_one_by_one(
    utterances: list[Utterance],
    vocabulary: Vocabulary,
    frames: Callable[[int], int],
    fastest: float,
    limits: tuple[float, float],
    sample_rate: int,
) -> tuple[list[Utterance], list[Reject]]:
    """The definition, spelled out."""
    admitted, rejects = [], []
    for utterance in utterances:
        name, seconds, text = utterance.id, utterance.seconds, normalize(utterance.text)
        unknown = set(text) - set(vocabulary.symbols)
        needed = 0 if unknown or not text else ctc_frames_needed(vocabulary.encode(text))
        given = frames(round(round(max(0.0, seconds - TOLERANCE_SECONDS) * sample_rate) / fastest))
        if not text:
            rejects.append(Reject(name, "empty text"))
        elif unknown:
            characters = " ".join(map(repr, sorted(unknown)))
            rejects.append(Reject(name, "characters not in the vocabulary", characters))
        elif seconds < limits[0]:
            rejects.append(Reject(name, f"shorter than {limits[0]:g} s", f"{seconds:.2f} s"))
        elif seconds > limits[1]:
            rejects.append(Reject(name, f"longer than {limits[1]:g} s", f"{seconds:.2f} s"))
        elif given < needed:
            detail = f"needs {needed} encoder frames, has {given} at speed {fastest:g}"
            rejects.append(Reject(name, "too short for its text", detail))
        else:
            admitted.append(replace(utterance, text=text))
    return admitted, rejects


MANY = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 80))  # more than an index has bits


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.05, 0.06, 0.3, 1.0, 17.25]) | st.floats(1e-3, 20.0),
            st.text("aab ' É7", max_size=12) | st.text(MANY + "a", max_size=30),
        ),
        max_size=12,
    ),
    st.sampled_from([ENGLISH, Vocabulary.from_transcripts(["ab", MANY[:70]])]),
    st.sampled_from([1, 640, 1280]),
    st.sampled_from([1.0, 1.1, 1.265]),
    st.sampled_from([(0.0, float("inf")), (0.06, 17.0)]),
    st.sampled_from([7, 8000, 44_100]),
)
@example([(9.0, letter) for letter in MANY + "a"], ENGLISH, 640, 1.0, (0.0, 9.0), 16_000)
@example([(2 / 7 + TOLERANCE_SECONDS, "ab")], ENGLISH, 1, 1.1, (0.0, 9.0), 7)  # 1.8 samples: 2
@settings(deadline=None, max_examples=300)
def test_admission_is_its_definition(
    rows: list[tuple[float, str]],
    vocabulary: Vocabulary,
    hop: int,
    fastest: float,
    limits: tuple[float, float],
    sample_rate: int,
) -> None:
    utterances = [
        Utterance(f"u{number}", "x.wav", seconds, text)
        for number, (seconds, text) in enumerate(rows)
    ]

    def frames(samples: int) -> int:
        return samples // hop

    admitted, rejects = select_trainable(
        utterances, vocabulary, frames, fastest, *limits, sample_rate
    )
    expected = select_one_by_one(utterances, vocabulary, frames, fastest, limits, sample_rate)
    assert (list(admitted), rejects) == expected


def test_admit_names_every_reason() -> None:
    texts = {"ok": "Two  Words", "e": " ", "c": "7 cafés", "s": "a", "l": "a", "t": "bookkeeper"}
    seconds = {"s": 0.19, "l": 10.01, "t": 0.4}
    utterances = [
        Utterance(name, "x.wav", seconds.get(name, 1.0), text) for name, text in texts.items()
    ]
    admitted, rejects = select_trainable(
        utterances, ENGLISH, lambda samples: samples // 640, 1.1, min_seconds=0.2, max_seconds=10
    )
    assert list(admitted) == [replace(utterances[0], text="two words")]
    assert rejects == [
        Reject("e", "empty text"),
        Reject("c", "characters not in the vocabulary", "'7' 'é'"),
        Reject("s", "shorter than 0.2 s", "0.19 s"),
        Reject("l", "longer than 10 s", "10.01 s"),
        Reject("t", "too short for its text", "needs 13 encoder frames, has 7 at speed 1.1"),
    ]


@given(st.text("ab", min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_what_is_admitted_is_what_ctc_can_align(text: str) -> None:
    """Law 5; the oracle is torch's CTC loss, which is infinite where there is no alignment."""
    target = torch.tensor([ENGLISH.encode(text)])
    for frames in range(1, 17):
        log_probs = torch.randn(frames, 1, len(ENGLISH)).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            log_probs, target, torch.tensor([frames]), torch.tensor([len(text)])
        )
        admitted, rejects = select_trainable(
            [Utterance("u", "", 1.0, text)], ENGLISH, lambda _, n=frames: n
        )
        assert len(admitted) == bool(torch.isfinite(loss))
        assert len(admitted) + len(rejects) == 1


def test_the_fastest_speed_decides() -> None:
    def frames(samples: int) -> int:
        return samples // 100

    utterance = Utterance("u", "", 1.0, "ab" * 40)  # 80 symbols; 152 sure frames
    assert select_trainable([utterance], ENGLISH, frames, fastest=1.9)[0]
    assert not select_trainable([utterance], ENGLISH, frames, fastest=1.91)[0]
    assert not select_trainable([utterance], ENGLISH, frames, fastest=1.1, sample_rate=8000)[0]


def test_an_admitted_utterance_fits_however_it_is_damaged(tmp_path: Path) -> None:
    """Law 5 over the whole path: the shortest recording that is admitted, at any speed and tempo."""
    text = "no one will add all"
    needed = ctc_frames_needed(ENGLISH.encode(text))
    log_mel, damage = LogMel(FeaturesConfig()), AugmentConfig(speeds=[0.9, 1.1], tempo=0.15)

    def frames(samples: int) -> int:
        return -(-log_mel.frames(samples) // 4)

    def try_samples(samples: int) -> Index:
        utterance = Utterance("u", str(tmp_path / "u.wav"), samples / 16_000, text)
        return select_trainable([utterance], ENGLISH, frames, fastest=damage.fastest)[0]

    samples = next(n for n in range(10_000, 30_000) if try_samples(n))
    shortest = samples - 798  # as short as is let pass
    soundfile.write(tmp_path / "u.wav", np.random.default_rng(0).normal(0, 0.1, shortest), 16_000)
    admitted = try_samples(samples)
    dataset = SpeechDataset(admitted, admitted.symbols, ENGLISH, log_mel, Augmenter(damage, 16_000))
    timings = [Timing(1.1, tempo=tempo) for tempo in np.linspace(0.85, 1.15, 50)]
    given_frames = [-(-len(dataset[0, 0, timing].features) // 4) for timing in timings]
    assert min(given_frames) == needed


def test_a_shared_corpus_is_admitted_whole(shared: Path) -> None:
    found, _ = read_librispeech(shared / "LibriSpeech/dev-mini")
    admitted, rejects = select_trainable(
        found, ENGLISH, lambda samples: samples // 640, fastest=1.1
    )
    assert (list(admitted), rejects) == (found, [])


# Training


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def whole(tones: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, never interrupted, on utterances that were read one and all."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(tiny_task(folder, tones, batch_seconds=1.6)).epoch == 3
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    assert read_metrics(one) == read_metrics(other)
    ours, theirs = checkpoint.read(one / "last.pt"), checkpoint.read(other / "last.pt")
    assert ours["training"]["fingerprint"] == theirs["training"]["fingerprint"]
    for name, weight in ours["weights"].items():
        assert torch.equal(weight, theirs["weights"][name]), name


class Stop(TrainingCallbacks):
    """Interrupts the run after some steps."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def steps_done(self, steps: int, loss: float) -> None:
        self.left -= steps
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_indexed_run_is_that_of_utterances_read_one_and_all(
    tones: list[Utterance], whole: Path, tmp_path: Path, workers: int
) -> None:
    """Also where a run goes on with an index that began without; some utterances are too long."""
    write_manifest(tmp_path / "m.jsonl", tones)
    found = open_index(tmp_path / "m.jsonl")
    runtime = RuntimeConfig(device="cpu", processes=1, threads=1, workers=workers)
    given = {"batch_seconds": 1.6, "runtime": runtime, "dev_set": tones[:3]}
    task = tiny_task(tmp_path / "run", found, callbacks=Stop(-1), **given)
    assert train(task).epoch == 3
    assert any("left out, longer than 1.6 s" in line for line in task.callbacks.lines)
    assert_same_run(tmp_path / "run", whole)
    assert train(tiny_task(tmp_path / "cut", tones, callbacks=Stop(4), **given)).interrupted
    assert train(tiny_task(tmp_path / "cut", found, **given)).epoch == 3
    assert_same_run(tmp_path / "cut", whole)


def test_processes_share_an_index(tones: list[Utterance], tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", tones)
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1, workers=0)
    for name, utterances in (("a", tones), ("b", open_index(tmp_path / "m.jsonl"))):
        task = tiny_task(tmp_path / name, utterances, epochs=1, dev_set=tones[:3], runtime=runtime)
        assert launch(train, task, 2).epoch == 1
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_changed_manifest_is_not_gone_on_with(tones: list[Utterance], tmp_path: Path) -> None:
    """Through the index, as through the manifest: same size, another text."""
    path = tmp_path / "m.jsonl"
    write_manifest(path, tones)
    given = {"epochs": 1, "dev_set": tones[:3]}
    assert train(tiny_task(tmp_path / "run", open_index(path), **given)).epoch == 1
    write_manifest(path, [*tones[:-1], replace(tones[-1], text=tones[-1].text[::-1])])
    with pytest.raises(ConfigError, match="another value of the training set"):
        train(tiny_task(tmp_path / "run", open_index(path), **given))
