"""The page of `asr serve`, as a reader uses it: with the mouse, the keyboard and the microphone."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, SECONDS, Browser, Tab, browsing
from files import write_text
from project import ROOT
from running import running

from asr.decoder.hypothesis import Hypothesis, Word
from asr.endpoint import EndpointConfig
from asr.formats import to_srt, to_txt, to_vtt
from asr.recognizer import Recognizer

SAMPLE = ROOT / "docs" / "sample.flac"
KEY = "correct-horse-battery-staple"
PARTIALS = """
    window.partials = [];
    new MutationObserver(() => partials.push(document.getElementById("current").innerText.trim()))
        .observe(document.getElementById("current"), {subtree: true, childList: true});
"""

if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)


@contextmanager
def serving(*options: object) -> Iterator[str]:
    """The address of a server of its own."""
    command = [sys.executable, "-m", "asr", "serve", "--port", "0", *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            lines = []
            for line in process.stderr:
                lines.append(line)
                if address := re.search(r"serving .* at (http://\S+/) ", line):
                    yield address[1]
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.default()


@pytest.fixture(scope="module")
def expected(recognizer: Recognizer) -> Hypothesis:
    """The transcript of the sample."""
    return recognizer.transcribe(SAMPLE)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def guarded(recognizer: Recognizer) -> Iterator[str]:
    """The address of a server that wants a key and has room for one live stream."""
    with running(recognizer, keys=(KEY,), streams=1) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose microphone hears the sample twice, with a pause between."""
    folder = tmp_path_factory.mktemp("browser")
    samples, rate = soundfile.read(SAMPLE, dtype="int16")
    pause = np.zeros(2 * rate, np.int16)
    soundfile.write(folder / "microphone.wav", np.concatenate([samples, pause, samples]), rate)
    with browsing(folder, folder / "microphone.wav") as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, server: str) -> Iterator[Tab]:
    """The page in a tab; no script may throw and no policy may be breached."""
    tab = browser.open(server)
    tab.wait("document.getElementById('facts').children.length")
    yield tab
    problems = tab.problems()
    tab.close()
    assert problems == []


def finish(tab: Tab) -> str:
    """Wait for the transcript and return its text."""
    tab.wait("!document.getElementById('result').hidden && document.getElementById('stop').hidden")
    return read_text(tab)


def read_text(tab: Tab) -> str:
    return " ".join(tab.evaluate("[...document.querySelectorAll('.word')].map(w => w.textContent)"))


def transcribe(tab: Tab, path: Path = SAMPLE) -> str:
    """Choose a file and return its transcript."""
    tab.set_files("#file", path)
    return finish(tab)


def save(browser: Browser, tab: Tab, format: str, name: str) -> str:
    """Save the transcript and return what is in the file."""
    tab.click(f"[data-format={format}]")
    path = browser.downloads / name
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, list(browser.downloads.iterdir())
        time.sleep(0.05)
    text = path.read_text("utf-8")
    path.unlink()
    return text


class TestRecordings:
    def test_the_transcript_is_that_of_the_library(self, tab: Tab, expected: Hypothesis) -> None:
        assert transcribe(tab) == expected.text
        assert tab.text("#name") == "sample.flac"
        grades = tab.evaluate("[...document.querySelectorAll('.word')].map(w => w.classList[1])")
        assert len(grades) == len(expected.words)
        for word, grade in zip(expected.words, grades, strict=True):
            limits = {"sure": (0.8, 1.0), "unsure": (0.5, 0.8), "wrong": (0.0, 0.5)}[grade]
            assert limits[0] <= word.confidence <= limits[1]
        assert tab.evaluate("document.querySelector('.word').title").endswith(" s")

    def test_captions_appear_before_the_transcript(
        self, tab: Tab, recognizer: Recognizer, tmp_path: Path
    ) -> None:
        samples, rate = soundfile.read(SAMPLE, dtype="int16")
        pieces = [samples, np.zeros(2 * rate, np.int16)] * 12
        soundfile.write(tmp_path / "long.wav", np.concatenate(pieces), rate)
        tab.evaluate(
            "window.captions = []; new MutationObserver(() => captions.push("
            "[document.getElementById('settled').innerText, document.getElementById('result').hidden]"
            ")).observe(document.getElementById('settled'), {childList: true})"
        )
        whole = recognizer.transcribe(tmp_path / "long.wav").text
        assert transcribe(tab, tmp_path / "long.wav") == whole
        captions = tab.evaluate("captions.filter(([text, hidden]) => text && hidden)")
        assert len(captions) > 1
        assert whole.startswith(captions[0][0].strip())
        assert len(tab.evaluate("[...document.querySelectorAll('.paragraph')].map(p => 1)")) > 1

    def test_saved_files_equal_those_of_the_library(
        self, browser: Browser, tab: Tab, expected: Hypothesis
    ) -> None:
        transcribe(tab)
        assert save(browser, tab, "srt", "sample.srt") == to_srt(expected)
        assert save(browser, tab, "vtt", "sample.vtt") == to_vtt(expected)
        assert save(browser, tab, "txt", "sample.txt") == to_txt(expected)
        document = json.loads(save(browser, tab, "json", "sample.json"))
        assert document["words"] == expected.to_dict()["words"]
        assert document["path"] == "sample.flac"

    def test_a_click_on_a_word_plays_from_there(self, tab: Tab, expected: Hypothesis) -> None:
        transcribe(tab)
        tab.click(".word:nth-of-type(5)")
        tab.wait("!document.getElementById('audio').paused")
        start = expected.words[4].start
        assert tab.wait("document.getElementById('audio').currentTime") >= start
        tab.wait(f"document.getElementById('audio').currentTime > {start + 0.2}")
        tab.click("#play")
        tab.wait("document.getElementById('audio').paused")

    def test_a_click_on_the_waveform_moves_there(self, tab: Tab, expected: Hypothesis) -> None:
        transcribe(tab)
        tab.click("#slider", 0.75)
        assert expected.seconds
        now = tab.wait("document.getElementById('audio').currentTime")
        assert now == pytest.approx(0.75 * expected.seconds, abs=0.05)
        shown = tab.evaluate("document.getElementById('slider').getAttribute('aria-valuenow')")
        assert float(shown) == pytest.approx(now, abs=0.06)
        heard = [word.text for word in expected.words if word.start <= now < word.end]
        here = tab.evaluate("[...document.querySelectorAll('.here')].map(w => w.textContent)")
        assert here == heard

    def test_a_dropped_file_whose_name_is_markup(
        self, tab: Tab, expected: Hypothesis, tmp_path: Path
    ) -> None:
        name = "<script>window.planted=1<&script><img src=x onerror=planted=1>.flac"
        (tmp_path / name).write_bytes(SAMPLE.read_bytes())
        tab.drop("#drop", tmp_path / name)
        assert finish(tab) == expected.text
        assert tab.text("#name") == name
        assert tab.evaluate("window.planted") is None
        assert tab.evaluate("document.querySelectorAll('main script, main img').length") == 0

    def test_the_decoder_and_the_hotwords_are_chosen_in_the_settings(
        self, tab: Tab, recognizer: Recognizer
    ) -> None:
        tab.click("#settings summary")
        tab.click("#hotwords")
        tab.type("wrynn, openda")
        hotwords = recognizer.with_decoder("beam", ["wrynn", "openda"])
        assert transcribe(tab) == hotwords.transcribe(SAMPLE).text
        tab.click("#language-model")
        assert tab.evaluate("document.getElementById('hotwords').disabled")
        greedy = recognizer.with_decoder("greedy").transcribe(SAMPLE)
        tab.evaluate("document.getElementById('result').hidden = true")
        assert transcribe(tab) == greedy.text

    def test_a_refusal_is_shown_as_a_sentence(
        self, browser: Browser, server: str, tmp_path: Path
    ) -> None:
        tab = browser.open(server)
        tab.set_files("#file", write_text(tmp_path / "letter.wav", "Dear Sir or Madam"))
        problem = tab.wait("document.getElementById('problem').innerText")
        assert problem[0].isupper()
        assert problem.endswith(".")
        assert "recording" in problem
        assert not tab.evaluate("document.getElementById('choose').disabled")
        tab.close()

    def test_nothing_is_sent_after_stop(self, tab: Tab, tmp_path: Path) -> None:
        samples, rate = soundfile.read(SAMPLE, dtype="int16")
        soundfile.write(tmp_path / "long.wav", np.tile(samples, 60), rate)
        tab.set_files("#file", tmp_path / "long.wav")
        tab.wait("!document.getElementById('stop').hidden")
        tab.click("#stop")
        tab.wait("document.getElementById('stop').hidden")
        assert tab.evaluate("document.getElementById('result').hidden")
        assert tab.evaluate("document.getElementById('problem').hidden")
        assert tab.text("#status") == "There is no complete transcript."


class TestFormats:
    @pytest.mark.parametrize(
        "words",
        [
            [],
            [Word("a", 0.0, 0.04, 0.9)],
            [Word("<b>", 3599.96, 3600.2, 0.1), Word("&é𝄞" * 9, 3600.2, 3661.0, 0.5)],
            [Word("x" * 20, i * 0.5, i * 0.5 + 0.24, 0.5) for i in range(9)],
            [Word("𝄞" * 20, i * 1.5, i * 1.5 + 0.4, 0.5) for i in range(5)],
            [Word("on", i * 1.24, i * 1.24 + 0.24, 0.5) for i in range(60)],
        ],
    )
    def test_subtitles_are_cut_like_those_of_the_library(self, tab: Tab, words: list[Word]) -> None:
        hypothesis = Hypothesis(" ".join(w.text for w in words), tuple(words), 0.5, 0.0)
        for function, ours in (("toSrt", to_srt), ("toVtt", to_vtt), ("toTxt", to_txt)):
            document = json.dumps(hypothesis.to_dict())
            script = f"import('./page/formats.js').then(f => f.{function}({document}))"
            assert tab.evaluate(script) == ours(hypothesis)


class TestMicrophone:
    def test_captions_follow_the_speaker(self, tab: Tab, recognizer: Recognizer) -> None:
        samples, rate = soundfile.read(SAMPLE, dtype="int16")
        stream = recognizer.stream(640, EndpointConfig())
        partial = stream.accept(np.concatenate([samples, np.zeros(2 * rate, np.int16)]), rate)
        sentence = partial.segments[0].text
        tab.evaluate(PARTIALS)
        tab.click("#speak")
        tab.wait("document.querySelectorAll('#settled p').length === 2")
        first = tab.text("#settled p")
        tab.click("#stop")
        text = finish(tab)
        assert is_alike(first, sentence), (first, sentence)
        assert text.startswith(first)
        assert is_alike(text.removeprefix(first), sentence), text
        partials = [text for text in tab.evaluate("partials") if text]
        assert len(set(partials)) > 3
        assert tab.evaluate("document.getElementById('audio').duration") > 4
        tab.click(".word")
        tab.wait("document.getElementById('audio').currentTime > 0.5")

    def test_a_server_without_room_says_so(self, browser: Browser, guarded: str) -> None:
        first, second = browser.open(guarded), browser.open(guarded)
        for tab in (first, second):
            tab.wait("document.getElementById('key').open")
            tab.type(KEY)
            tab.press("Enter")
            tab.wait("document.getElementById('facts').children.length")
        first.click("#speak")
        first.wait("document.querySelector('#current').innerText.trim()")
        second.click("#speak")
        problem = second.wait("document.getElementById('problem').innerText")
        assert problem == "All 1 live streams of this server are taken; try again later."
        first.close()
        second.close()

    def test_what_was_heard_remains_if_the_server_goes_away(
        self, browser: Browser, checkpoint: Path
    ) -> None:
        with serving("--checkpoint", checkpoint, "--stop", 0.001) as address:
            tab = browser.open(address)
            tab.wait("document.getElementById('facts').children.length")
            tab.click("#speak")
            tab.wait("document.querySelectorAll('#settled p').length")
        assert "lost" in tab.wait("document.getElementById('problem').innerText")
        assert finish(tab)
        tab.wait("document.getElementById('audio').duration > 1")
        tab.close()

    def test_the_keyboard_is_enough(self, tab: Tab) -> None:
        for _ in range(2):
            tab.press("Tab")
        assert focus(tab) == "speak"
        tab.press("Enter")
        assert tab.wait("document.activeElement.id") == "stop"
        tab.wait("document.querySelector('#current').innerText.trim()")
        tab.press("Escape")
        finish(tab)
        assert tab.evaluate("document.activeElement.className").startswith("word")


def is_alike(first: str, second: str) -> bool:
    """Whether two sentences share most of their words: the browser resamples the microphone."""
    common = set(first.split()) & set(second.split())
    return len(common) >= 0.6 * max(len(first.split()), len(second.split()))


def focus(tab: Tab) -> str:
    return str(tab.evaluate("document.activeElement.id"))


class TestKeyboard:
    def test_a_recording_is_chosen(self, tab: Tab) -> None:
        tab.call("Page.setInterceptFileChooserDialog", {"enabled": True})
        tab.press("Tab")
        assert focus(tab) == "choose"
        assert not tab.has_seen("Page.fileChooserOpened")
        tab.press("Enter")
        assert tab.has_seen("Page.fileChooserOpened")

    def test_words_and_the_waveform_are_reached_and_played(
        self, tab: Tab, expected: Hypothesis
    ) -> None:
        transcribe(tab)
        tab.evaluate("document.getElementById('play').focus()")
        tab.press("Tab")
        assert focus(tab) == "slider"
        tab.press("End")
        assert tab.wait("document.getElementById('audio').currentTime > 3")
        tab.press("Home")
        assert tab.evaluate("document.getElementById('audio').currentTime") == 0
        tab.press("Tab")
        for _ in range(2):
            tab.press("ArrowRight")
        assert tab.evaluate("document.activeElement.textContent") == expected.words[2].text
        tab.press("Enter")
        tab.wait("!document.getElementById('audio').paused")
        start = expected.words[2].start
        assert tab.evaluate("document.getElementById('audio').currentTime") >= start
        tab.press("Tab")
        assert tab.evaluate("document.activeElement.dataset.format") == "txt"


class TestKey:
    def test_the_key_is_asked_for_and_used_everywhere(
        self, browser: Browser, guarded: str, expected: Hypothesis
    ) -> None:
        tab = browser.open(guarded)
        tab.wait("document.getElementById('key').open")
        tab.type("wrong-wrong-wrong")
        tab.press("Enter")
        tab.wait("!document.getElementById('key-problem').hidden")
        tab.type(KEY)
        tab.press("Enter")
        tab.wait("document.getElementById('facts').children.length")
        assert transcribe(tab) == expected.text
        tab.click("#speak")
        tab.wait("document.querySelector('#current').innerText.trim()")
        tab.click("#stop")
        assert tab.wait("document.getElementById('name').innerText") == "Your recording"
        tab.wait("document.getElementById('stop').hidden")
        assert tab.evaluate("JSON.stringify(localStorage)") == "{}"
        tab.close()

    def test_without_a_key_nothing_is_sent(self, browser: Browser, guarded: str) -> None:
        tab = browser.open(guarded)
        tab.wait("document.getElementById('key').open")
        tab.press("Escape")
        assert "key" in tab.wait("document.getElementById('problem').innerText")
        tab.close()


def test_nothing_is_loaded_from_elsewhere_and_text_stays_text() -> None:
    for path in (ROOT / "asr" / "server" / "page").iterdir():
        source = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|//\w+\.", source), path
        assert not re.search(r"HTML\b|document\.write|\beval\b|\bFunction\(", source), path


class TestLook:
    @pytest.mark.parametrize("width", [360, 390, 768, 1280])
    def test_nothing_is_wider_than_the_window(self, tab: Tab, width: int, tmp_path: Path) -> None:
        long = tmp_path / f"{'a-very-long-name-' * 10}.flac"
        long.write_bytes(SAMPLE.read_bytes())
        tab.resize(width, 800, is_mobile=width < 500)
        transcribe(tab, long)
        for element in ("#settings", "#card"):
            tab.click(f"{element} summary")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_no_barrier(self, tab: Tab, scheme: str) -> None:
        axe = find_axe()
        tab.prefer(scheme)
        tab.evaluate(f"{axe}; 0")
        assert check(tab) == []
        transcribe(tab)
        for element in ("#settings", "#card"):
            tab.click(f"{element} summary")
        assert check(tab) == []

    def test_axe_finds_no_barrier_in_the_question_for_a_key(self, tab: Tab) -> None:
        tab.evaluate(f"{find_axe()}; document.getElementById('key').showModal()")
        assert check(tab) == []


def find_axe() -> str:
    """The script of axe-core; skips without it."""
    path = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    if not path.is_file():
        pytest.skip(
            "axe-core is not installed: npm install axe-core, or set AXE_CORE to axe.min.js"
        )
    return path.read_text("utf-8")


def check(tab: Tab) -> list[Any]:
    """What axe finds: rules and elements."""
    found: list[Any] = tab.evaluate(
        "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    )
    return found
