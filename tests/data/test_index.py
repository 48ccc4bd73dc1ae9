"""The index: equal to reading the manifest directly, whatever happens to its file."""

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
import torch
from corpus import tiny_task
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import Pair

from asr import checkpoint, experiment
from asr.data import index
from asr.data import manifest as data
from asr.data.index import Index, index_utterances, open_index
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.planning import Planner, hash_id
from asr.data.selection import select_trainable
from asr.errors import ConfigError, DataError
from asr.recipe import TrainingDisplay
from asr.runtime.distributed import RuntimeConfig
from asr.text import Vocabulary, min_ctc_frames, normalize
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
    """The error of reading a manifest (or "") and its utterances."""
    try:
        return "", read_directly(path)
    except DataError as error:
        return str(error), []


def settle(path: Path) -> None:
    """Give a file an old time stamp."""
    os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The manifests of which an index was built."""
    seen: list[Path] = []
    real = index._index_manifest

    def spy(output: object, aside: object, path: Path, on_progress: object) -> None:
        seen.append(path)
        real(output, aside, path, on_progress)  # type: ignore[arg-type]

    monkeypatch.setattr(index, "_index_manifest", spy)
    return seen


# Contents

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
def test_an_index_equals_direct_reading_including_errors(
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
    for found in (open_index(path), open_index(path)):  # first built, then read
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
            min_ctc_frames(vocabulary.encode(u.text)) for u in expected
        ]
    assert sorted(path.parent.iterdir()) == [path, path.with_name("m.jsonl.index")]


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_a_digest_depends_only_on_the_selected_utterances(chosen: list[bool]) -> None:
    """Checkpoints hold the digest: a hash of the JSON of all (id, seconds, text)."""
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


def test_the_format_is_not_changed_by_accident(manifest: Path) -> None:
    """If these values change, the users' files become invalid; increase index.FORMAT."""
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


def test_only_accessed_utterances_are_read(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_index(manifest)
    found = open_index(manifest)
    read: list[int] = []
    real = index._Store.read
    monkeypatch.setattr(
        index._Store, "read", lambda store, number: read.append(number) or real(store, number)
    )
    Planner(found.seconds, found.hashes, 10.0).epoch(0)
    trainable, _ = select_trainable(found, ENGLISH, lambda samples: samples // 640)
    trainable.digest()
    assert read == []
    assert found[1].id == "é"
    assert read == [1]


def test_colliding_hashes_are_not_duplicate_ids(
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
    with pytest.raises(DataError, match="line 6: the id '2' is already used on line 3"):
        open_index(path)


def test_a_missing_manifest_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read \(No such file"):
        open_index(tmp_path / "new" / "none.jsonl")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory"):
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


# Outdated, damaged and unwritable files


def same_size(path: Path) -> bytes:
    """Other contents of the same size."""
    changed = path.read_bytes().replace(b"book", b"cook")
    assert changed != path.read_bytes()
    return changed


def test_a_change_that_keeps_size_and_time_is_detected(manifest: Path, builds: list[Path]) -> None:
    settle(manifest)
    before = manifest.stat()
    assert open_index(manifest)[1].text == "book"
    manifest.write_bytes(same_size(manifest))
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_index(manifest)[1].text == "cook"
    assert len(builds) == 2


def test_a_change_at_the_time_of_indexing_is_detected(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coarse clock can give the change the same time stamp as the indexed contents."""
    monkeypatch.setattr(index, "_times", lambda path: [path.stat().st_size, *2 * [time.time_ns()]])
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert open_index(manifest)[1].text == "book"
    manifest.write_bytes(same_size(manifest))
    assert open_index(manifest)[1].text == "cook"
    assert len(builds) == 2


def test_a_touched_or_rewritten_manifest_is_not_indexed_again(
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
    monkeypatch.setattr(index, "SETTLE_SECONDS", -1.0)
    open_index(manifest)
    monkeypatch.setattr(index.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert list(open_index(manifest)) == read_directly(manifest)


def test_a_manifest_that_changes_while_it_is_indexed_is_indexed_again(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SETTLE_SECONDS", -1.0)
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
def test_a_damaged_index_is_rebuilt(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(index, "SETTLE_SECONDS", -1.0)  # makes the bytes independent of the time
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
def test_an_index_of_another_version_is_rebuilt(
    manifest: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch, change: list[object]
) -> None:
    open_index(manifest)
    monkeypatch.setattr(index, "FORMAT", change)
    open_index(manifest)
    open_index(manifest)
    assert len(builds) == 2


def test_an_unwritable_folder_falls_back_to_the_cache(
    manifest: Path, builds: list[Path], cache: Path
) -> None:
    manifest.with_name("m.jsonl.index").mkdir()  # nobody, not even root, can write this file
    for _ in range(2):
        assert list(open_index(manifest)) == read_directly(manifest)
    assert len(builds) == 1  # nothing is built for a file that cannot be written
    (kept,) = (cache / "asr").iterdir()
    manifest.write_bytes(same_size(manifest))
    assert open_index(manifest)[1].text == "cook"
    assert list((cache / "asr").iterdir()) == [kept]


def test_without_any_writable_folder_the_index_is_in_memory(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.with_name("m.jsonl.index").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(manifest))  # not a folder
    found = open_index(manifest)
    assert list(found) == list(pickle.loads(pickle.dumps(found))) == read_directly(manifest)
    assert len(list(manifest.parent.iterdir())) == 2


def test_a_full_disk_keeps_the_old_index_and_leaves_no_other_file(
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


def test_concurrent_indexing_succeeds(tmp_path: Path) -> None:
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


def test_an_index_is_pickled_as_its_path(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance(f"u{n}", f"{n}.wav", 1.0, f"w {n}") for n in range(3000)])
    found = open_index(path)
    pickled = pickle.dumps(found)
    assert len(pickled) < 1000
    chosen = found[::1000]
    for other in (pickle.loads(pickled), pickle.loads(pickle.dumps(chosen))):
        assert isinstance(other, Index)
        assert list(other[:1]) == list(found[:1])
        assert other.digest() == (found if len(other) == 3000 else chosen).digest()
    write_manifest(path, [NOW[0]])
    assert len(found) == 3000
    assert found[2999].text == "w 2999"  # the index is a snapshot
    open_index(path)
    with pytest.raises(
        DataError, match=r"m\.jsonl\.index was replaced while training was starting"
    ):
        pickle.loads(pickled)


def test_indexing_a_large_manifest_shows_a_bar(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment._open_training_set(str(manifest), TrainingDisplay())
    assert capsys.readouterr() == ("", "")  # a small manifest shows none
    monkeypatch.setattr(index, "PROGRESS_BYTES", 80)  # between the sizes of the two lines
    for callbacks, shown in (
        (TrainingCallbacks(), ""),
        (TrainingDisplay(), f"Indexing {manifest}: "),
    ):
        manifest.with_name("m.jsonl.index").unlink()
        experiment._open_training_set(str(manifest), callbacks)
        written = capsys.readouterr()
        assert written.out == ""
        assert written.err[: len(shown) or None] == shown
    assert written.err.splitlines()[-1].startswith(f"Indexing {manifest}: ")
    assert "(100 %) in" in written.err
    experiment._open_training_set(str(manifest), TrainingDisplay())
    assert capsys.readouterr() == ("", "")


# Training


@pytest.fixture(scope="module")
def whole(tones: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on utterances that were read directly."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(tiny_task(folder, tones, batch_seconds=1.6)).epoch == 3
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    assert read_metrics(one) == read_metrics(other)
    ours, theirs = (
        checkpoint.Checkpoint.read(one / "last.pt").payload,
        checkpoint.Checkpoint.read(other / "last.pt").payload,
    )
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
def test_training_with_an_index_equals_training_with_read_utterances(
    tones: list[Utterance], whole: Path, tmp_path: Path, workers: int
) -> None:
    """This includes resuming with an index; some utterances are too long."""
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


def test_processes_share_an_index(tones: list[Utterance], tmp_path: Path, pair: Pair) -> None:
    write_manifest(tmp_path / "m.jsonl", tones)
    runtime = RuntimeConfig(device="cpu", processes=2, threads=1, workers=0)
    for name, utterances in (("a", tones), ("b", open_index(tmp_path / "m.jsonl"))):
        task = tiny_task(tmp_path / name, utterances, epochs=1, dev_set=tones[:3], runtime=runtime)
        assert pair.run(train, task).epoch == 1
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_run_is_not_resumed_with_a_changed_manifest(
    tones: list[Utterance], tmp_path: Path
) -> None:
    """The changed manifest has the same size and another text."""
    path = tmp_path / "m.jsonl"
    write_manifest(path, tones)
    options = {"epochs": 1, "dev_set": tones[:3]}
    assert train(tiny_task(tmp_path / "run", open_index(path), **options)).epoch == 1
    write_manifest(path, [*tones[:-1], replace(tones[-1], text=tones[-1].text[::-1])])
    with pytest.raises(ConfigError, match="a different training set"):
        train(tiny_task(tmp_path / "run", open_index(path), **options))
