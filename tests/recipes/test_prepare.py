"""Preparation of corpora: LibriSpeech from an unreliable server, and a user's own folder."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CONTENT = np.random.default_rng(1).bytes(50_000)


librispeech = load(RECIPES / "librispeech" / "prepare.py")
download = sys.modules["download"]
own_folder = load(RECIPES / "folder" / "prepare.py")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@dataclass
class Site:
    """A local web site: its files, its faults, and the requests that it received."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    resumes: bool = True
    cuts: list[int] = field(default_factory=list)  # body bytes after which the next answers are cut
    failures: list[int] = field(default_factory=list)  # status of the next answers that fail
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        content = self.files.get(handler.path)
        if self.failures or content is None:
            handler.send_error(self.failures.pop(0) if self.failures else 404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start and self.resumes:
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            content = content[start:]
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: self.cuts.pop(0)] if self.cuts else content)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait; no test really waits."""
    waits: list[float] = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


def fetch(site: Site, path: Path, digest: str = md5(CONTENT)) -> None:
    download.fetch(f"{site.address}/{path.name}", path, len(CONTENT), digest)


@pytest.fixture
def target(site: Site, tmp_path: Path) -> Path:
    """Path at which the site's single file is stored; no other file may be left beside it."""
    site.files["/file.gz"] = CONTENT
    return tmp_path / "new folder" / "file.gz"


# Fetching


def test_a_file_is_fetched_once(site: Site, target: Path) -> None:
    fetch(site, target)
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert files_below(target.parent) == {"file.gz"}
    assert site.requests == [("/file.gz", None)]


def test_broken_connections_are_continued(site: Site, target: Path, waits: list[float]) -> None:
    site.cuts = [10_000, 20_000, 0, 5_000]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [
        None,
        "bytes=10000-",
        "bytes=30000-",
        "bytes=30000-",
        "bytes=35000-",
    ]
    assert waits == [1, 1, 2, 1], "waits grow only while no bytes arrive"


def test_an_earlier_run_is_continued(
    site: Site, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target.parent.mkdir()
    target.with_name("file.gz.part").write_bytes(CONTENT[:40_000])
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert site.requests == [("/file.gz", "bytes=40000-")]
    assert "fetching file.gz: 40.0 kB of 50.0 kB (80 %)" in capsys.readouterr().err


def test_an_interrupted_run_is_continued_by_the_next(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    site.cuts = [30_000]
    with monkeypatch.context() as patch:
        patch.setattr(download, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(site, target)
    assert not target.exists()
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert site.requests[1:] == [("/file.gz", "bytes=30000-")]


def test_a_server_that_cannot_resume_sends_the_whole_file(site: Site, target: Path) -> None:
    site.resumes, site.cuts = False, [10_000]
    fetch(site, target)
    assert target.read_bytes() == CONTENT


def test_a_server_without_progress_is_given_up(
    site: Site, target: Path, waits: list[float]
) -> None:
    site.resumes, site.cuts = False, [10_000] * 20
    with pytest.raises(download.DownloadError, match="closed too early"):
        fetch(site, target)
    assert len(site.requests) == 1 + download.ATTEMPTS - 1


def test_wrong_earlier_bytes_are_fetched_again(site: Site, target: Path) -> None:
    for wrong in (b"x" * 10_000, b"x" * 50_000, b"x" * 60_000):
        target.parent.mkdir(exist_ok=True)
        target.with_name("file.gz.part").write_bytes(wrong)
        fetch(site, target)
        assert target.read_bytes() == CONTENT
        target.unlink()


def test_a_complete_part_is_only_renamed(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("file.gz.part").write_bytes(CONTENT)
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert site.requests == [("/file.gz", "bytes=50000-")]


def test_a_wrong_checksum_is_refused_and_the_file_removed(site: Site, target: Path) -> None:
    with pytest.raises(download.DownloadError, match=r"/file\.gz is not the published file"):
        fetch(site, target, digest="0" * 32)
    assert files_below(target.parent) == set()
    assert len(site.requests) == 1


def test_another_existing_file_is_named_and_kept(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(download.DownloadError, match=re.escape(f"{target} is not the published")):
        fetch(site, target)
    assert target.read_bytes() == b"mine"
    assert site.requests == []


def test_a_missing_file_is_not_tried_again(site: Site, target: Path) -> None:
    site.files.clear()
    with pytest.raises(download.DownloadError, match=r"HTTP 404 .*--mirror"):
        fetch(site, target)
    assert len(site.requests) == 1


def test_a_busy_server_is_tried_again(site: Site, target: Path, waits: list[float]) -> None:
    site.failures = [503, 429, 500]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert waits == [1, 2, 4]


def test_a_missing_network_is_reported_in_one_sentence(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(download.DownloadError, match=r"refused.*run the same command again"):
        download.fetch("http://127.0.0.1:9/file", tmp_path / "file", 10, "0" * 32)
    assert waits == [1, 2, 4, 8]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported_in_one_sentence(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("file.gz.part").symlink_to("/dev/full")
    with pytest.raises(download.DownloadError, match=r"No space left.*make room"):
        fetch(site, target)


def test_free_space_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=7_000_000_000))
    download.require_space(tmp_path / "new", 7_000_000_000)
    with pytest.raises(download.DownloadError, match=r"needs about 7\.1 GB .* has 7\.0 GB free"):
        download.require_space(tmp_path / "new", 7_100_000_000)


def test_missing_bytes(tmp_path: Path) -> None:
    assert download.missing_bytes(tmp_path / "absent", 10) == 10
    (tmp_path / "some.part").write_bytes(b"1234")
    assert download.missing_bytes(tmp_path / "some", 10) == 6
    (tmp_path / "whole").write_bytes(b"1234567890")
    assert download.missing_bytes(tmp_path / "whole", 10) == 0


# Unpacking


def pack(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def speech(seconds: float, seed: int = 1) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(16_000 * seconds))
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="FLAC")
    return file.getvalue()


def corpus(subset: str) -> dict[str, bytes]:
    """LibriSpeech's layout: two speakers, three recordings and a line without one."""
    return {
        "LibriSpeech/SPEAKERS.TXT": b"84 | F | dev-clean\n",
        f"LibriSpeech/{subset}/84/121/84-121-0000.flac": speech(1.0, 1),
        f"LibriSpeech/{subset}/84/121/84-121-0001.flac": speech(1.5, 2),
        f"LibriSpeech/{subset}/84/121/84-121.trans.txt": (
            b"84-121-0000 GO ON\n84-121-0001 DON'T STOP\n84-121-0002 LOST\n"
        ),
        f"LibriSpeech/{subset}/174/50/174-50-0000.flac": speech(0.5, 3),
        f"LibriSpeech/{subset}/174/50/174-50.trans.txt": b"174-50-0000 HALT\n",
    }


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def unpack(tmp_path: Path, content: bytes) -> Path:
    archive, folder = tmp_path / "dev-clean.tar.gz", tmp_path / "LibriSpeech" / "dev-clean"
    archive.write_bytes(content)
    download.unpack(archive, folder)
    return folder


def test_the_subset_and_the_files_beside_it_are_unpacked(tmp_path: Path) -> None:
    leftover = tmp_path / "LibriSpeech" / ".dev-clean.unfinished"
    leftover.mkdir(parents=True)
    (leftover / "from a killed run").touch()
    folder = unpack(tmp_path, pack(corpus("dev-clean")))
    assert files_below(folder.parent.parent) == {*corpus("dev-clean"), "dev-clean.tar.gz"}
    for name, content in corpus("dev-clean").items():
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_damaged_archive_leaves_no_files(tmp_path: Path, kept: float) -> None:
    content = pack(corpus("dev-clean"))
    with pytest.raises(download.DownloadError, match="cannot be unpacked"):
        unpack(tmp_path, content[: int(kept * len(content))])
    assert files_below(tmp_path) == {"dev-clean.tar.gz"}


def test_an_interrupted_unpacking_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = download.Bar.advance

    def interrupt(bar: object, n: int) -> None:
        if n > 0:
            raise KeyboardInterrupt
        advance(bar, n)

    monkeypatch.setattr(download.Bar, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path, pack(corpus("dev-clean")))
    assert files_below(tmp_path) == {"dev-clean.tar.gz"}


@pytest.mark.parametrize("name", ["../../evil", "LibriSpeech/dev-clean/../../../../evil"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(download.DownloadError, match="outside"):
        unpack(tmp_path, pack({**corpus("dev-clean"), name: b"evil"}))
    assert files_below(tmp_path) == {"dev-clean.tar.gz"}


def test_an_archive_of_another_subset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(download.DownloadError, match="contains no folder LibriSpeech/dev-clean"):
        unpack(tmp_path, pack(corpus("dev-other")))
    assert files_below(tmp_path) == {"dev-clean.tar.gz"}


# The LibriSpeech recipe


@pytest.fixture
def mirror(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a site that holds two small subsets and one language model."""
    for name in ("train-clean-100", "dev-clean"):
        site.files[f"/12/{name}.tar.gz"] = content = pack(corpus(name))
        published = librispeech.Published(f"12/{name}.tar.gz", len(content), md5(content))
        monkeypatch.setitem(librispeech.SUBSETS, name, published)
    site.files["/11/3-gram.arpa.gz"] = CONTENT
    published = librispeech.Published("11/3-gram.arpa.gz", len(CONTENT), md5(CONTENT))
    monkeypatch.setitem(librispeech.LANGUAGE_MODELS, "3-gram.arpa.gz", published)
    return ["--mirror", site.address + "/"]


def read(manifest: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def test_subsets_are_fetched_unpacked_and_listed(
    site: Site, mirror: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data"
    subsets = ["train-clean-100", "dev-clean", "dev-clean"]  # the repetition is ignored
    command = [*mirror, "--output", str(output), "--subsets", *subsets]
    command += ["--language-models", "3-gram.arpa.gz"]
    assert librispeech.main(command) == 0
    rows = {row["id"]: row for row in read(output / "dev-clean.jsonl")}
    assert rows.keys() == {"84-121-0000", "84-121-0001", "174-50-0000"}
    row = rows["84-121-0001"]
    assert (row["duration"], row["text"], row["speaker"]) == (1.5, "don't stop", "84")
    assert (output / str(row["audio_filepath"])).read_bytes() == speech(1.5, 2)
    assert (output / "language-models" / "3-gram.arpa.gz").read_bytes() == CONTENT
    printed = capsys.readouterr().out
    assert f"{output}/dev-clean.jsonl: 3 utterances, 0.00 hours, 2 speakers" in printed
    assert "84-121-0002" in printed, "rejects are named"

    shutil.rmtree(output / "archives")  # no longer needed
    asked = len(site.requests)
    assert librispeech.main(command) == 0
    assert len(site.requests) == asked == 3


def test_a_failure_keeps_the_completed_subsets(
    site: Site, mirror: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.files["/12/dev-clean.tar.gz"]
    command = [*mirror, "--output", str(tmp_path), "--subsets", "train-clean-100", "dev-clean"]
    assert librispeech.main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"prepare.py: {site.address}/12/dev-clean.tar.gz cannot be fetched (HTTP 404"
    )
    assert (tmp_path / "LibriSpeech" / "train-clean-100").is_dir()


def test_an_interruption_says_how_to_continue(
    mirror: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(librispeech, "fetch", interrupt)
    assert librispeech.main([*mirror, "--output", str(tmp_path), "--subsets", "dev-clean"]) == 130
    assert "the same command" in capsys.readouterr().err


def test_too_little_space_is_reported_before_the_download(
    site: Site,
    mirror: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = len(site.files["/12/dev-clean.tar.gz"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * size))
    assert librispeech.main([*mirror, "--output", str(tmp_path), "--subsets", "dev-clean"]) == 2
    assert "make room" in capsys.readouterr().err
    assert site.requests == []


def test_an_existing_folder_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subset in ("mine", "yours"):
        for name, content in corpus(subset).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    command = ["--folder", str(tmp_path / "LibriSpeech"), "--output", str(tmp_path / "out")]
    assert librispeech.main([*command, "--train", "mine", "--dev", "yours"]) == 0
    assert len(read(tmp_path / "out" / "mine.jsonl")) == 3
    recording = Path(str(read(tmp_path / "out" / "yours.jsonl")[0]["audio_filepath"]))
    assert recording.is_absolute()
    assert recording.is_file()
    capsys.readouterr()
    assert librispeech.main([*command, "--train", "theirs"]) == 2
    assert "theirs" in capsys.readouterr().err


def test_real_speech(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(shared / "LibriSpeech")
    command = ["--folder", folder, "--dev", "dev-mini", "--output", str(tmp_path)]
    assert librispeech.main(command) == 0
    assert "dev-mini.jsonl: 115 utterances, 0.27 hours, 2 speakers" in capsys.readouterr().out


def test_a_subset_without_usable_speech_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter = tmp_path / "silent" / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 LOST\n")
    command = ["--folder", str(tmp_path), "--train", "silent", "--output", str(tmp_path / "out")]
    assert librispeech.main(command) == 2
    output = capsys.readouterr()
    assert "1-2-0000" in output.out
    assert "contains no usable utterance" in output.err
    assert not (tmp_path / "out" / "silent.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--subsets", "dev-cleen"], "dev-cleen"),
        (["--language-models", "5-gram"], "5-gram"),
        (["--mirror", "/home/me"], "does not begin with http"),
        (["--folder", "x"], "--folder needs --train"),
        (["--train", "x"], "--folder needs --train"),
        (["--folder", "x", "--train", "y", "--subsets", "dev-clean"], "exclude each other"),
    ],
)
def test_invalid_arguments_are_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        librispeech.main(arguments)
    assert complaint in capsys.readouterr().err


def test_the_published_files_are_well_formed() -> None:
    published = [*librispeech.SUBSETS.values(), *librispeech.LANGUAGE_MODELS.values()]
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in published)
    assert len({file.md5 for file in published}) == len(published) == 14
    assert set(librispeech.DEFAULT_SUBSETS) < set(librispeech.SUBSETS)
    assert len(librispeech.SUBSETS) == 7
    # openslr.org/12 gives the seven sizes as 6.3G + 23G + 30G + 337M + 314M + 346M + 328M
    total = sum(file.size_bytes for file in librispeech.SUBSETS.values())
    assert total == pytest.approx(61.3e9, rel=0.01)


# The recipe for one's own folder


def make_folder(folder: Path, recordings: dict[str, str]) -> None:
    for seed, (name, text) in enumerate(recordings.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(speech(0.5, seed))
        path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def ids(manifest: Path) -> set[str]:
    return {str(row["id"]) for row in read(manifest)}


def test_speakers_are_not_divided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {f"{speaker}/{number}.flac" for speaker in ("ann", "bob", "cem") for number in range(4)}
    make_folder(tmp_path / "mine", dict.fromkeys(sorted(names), "Well-known, isn’t it?"))
    command = [str(tmp_path / "mine"), "--output", str(tmp_path / "out")]
    assert own_folder.main(command) == 0
    train, dev = ids(tmp_path / "out" / "train.jsonl"), ids(tmp_path / "out" / "dev.jsonl")
    assert {f"{name}.flac" for name in train | dev} == names
    assert not {name.split("/")[0] for name in train} & {name.split("/")[0] for name in dev}
    assert (len(train), len(dev)) == (8, 4)
    assert {row["text"] for row in read(tmp_path / "out" / "dev.jsonl")} == {"well known isn't it"}
    assert "train.jsonl: 8 utterances" in capsys.readouterr().out


def test_what_a_profile_changes_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "mine", dict.fromkeys(["1.flac", "2.flac"], "Мой чай, ещё!"))
    command = [str(tmp_path / "mine"), "--output", str(tmp_path / "out"), "--profile"]
    assert own_folder.main([*command, "english"]) == 0
    printed = capsys.readouterr().out
    assert "letters that the profile english replaced or removed: й (4), ё (2);" in printed
    assert "signs that the profile english replaced or removed: ! (2), , (2)" in printed
    assert own_folder.main([*command, "multilingual"]) == 0
    printed = capsys.readouterr().out
    assert "letters that" not in printed
    assert "signs that the profile multilingual replaced or removed: ! (2), , (2)" in printed
    assert {row["text"] for row in read(tmp_path / "out" / "dev.jsonl")} == {"мой чай ещё"}


@pytest.mark.parametrize("only_speaker", ["", "ann/"])
def test_without_speakers_recordings_are_divided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], only_speaker: str
) -> None:
    make_folder(tmp_path / "mine", {f"{only_speaker}{n}.flac": "Yes." for n in range(10)})
    (tmp_path / "mine" / "silent.txt").write_text("nobody recorded this")
    command = [str(tmp_path / "mine"), "--output", str(tmp_path / "out"), "--profile", "plain"]
    assert own_folder.main([*command, "--dev-fraction", "0.3"]) == 0
    assert len(ids(tmp_path / "out" / "train.jsonl")) == 7
    assert len(ids(tmp_path / "out" / "dev.jsonl")) == 3
    assert {row["text"] for row in read(tmp_path / "out" / "dev.jsonl")} == {"yes."}
    assert "silent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recordings", "complaint"),
    [({"only.flac": "yes"}, "at least one each"), ({}, "mine")],
)
def test_too_few_utterances_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recordings: dict[str, str],
    complaint: str,
) -> None:
    (tmp_path / "mine").mkdir()
    make_folder(tmp_path / "mine", recordings)
    assert own_folder.main([str(tmp_path / "mine"), "--output", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fraction", ["0", "1", "-0.1", "nan", "ten"])
def test_invalid_fractions_are_refused(fraction: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        own_folder.main(["mine", f"--dev-fraction={fraction}"])


names = st.text("abc/", min_size=1, max_size=5).filter(lambda name: "/" not in (name[0], name[-1]))
seconds = st.floats(0.1, 30)
fractions = st.floats(0.01, 0.99)


@settings(deadline=None)
@given(st.dictionaries(names, seconds, min_size=2, max_size=30), fractions, st.randoms())
def test_a_division_is_complete_disjoint_and_the_same_in_any_order(
    lengths: dict[str, float], fraction: float, random: object
) -> None:
    utterances = [
        own_folder.Utterance(name, "x.wav", length, "yes") for name, length in lengths.items()
    ]
    train, dev = own_folder.divide(utterances, fraction)
    assert train
    assert dev
    assert sorted(each.id for each in train + dev) == sorted(lengths)
    speakers = [{each.id.split("/")[0] for each in part} for part in (train, dev)]
    if len(speakers[0] | speakers[1]) > 1:
        assert not speakers[0] & speakers[1]
    random.shuffle(utterances)  # type: ignore[attr-defined]
    again = own_folder.divide(utterances, fraction)
    assert [{each.id for each in part} for part in again] == [
        {each.id for each in part} for part in (train, dev)
    ]


@settings(deadline=None)
@given(fractions)
def test_the_division_of_many_utterances_is_close_to_its_fraction(fraction: float) -> None:
    utterances = [own_folder.Utterance(f"{n}", "x.wav", 1 + n % 7, "yes") for n in range(500)]
    _, dev = own_folder.divide(utterances, fraction)
    total = sum(each.seconds for each in utterances)
    assert abs(sum(each.seconds for each in dev) - fraction * total) <= 7


# As scripts


def test_runs_as_a_script(tmp_path: Path) -> None:
    script = RECIPES / "librispeech" / "prepare.py"
    command = [sys.executable, str(script), "--folder", str(tmp_path), "--dev", "none"]
    command += ["--output", str(tmp_path / "out")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert re.fullmatch(r"prepare\.py: .*none.*\n", finished.stderr)
