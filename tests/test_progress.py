"""The progress display: plain lines in a log, a live bar on a terminal, results on stdout."""

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from asr import progress
from asr.progress import PLAIN_LINE_SECONDS, Bar, say, track


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called inside the test: pytest puts its own stderr in place after the fixtures have run."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


@pytest.fixture(autouse=True)
def _no_bar_stays_open() -> Iterator[None]:
    yield
    assert progress._display is None
    assert progress._open_bars == []


def test_plain_lines_are_first_every_ten_seconds_and_last(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar("fetching", 100, "files") as bar:
        for _ in range(100):
            clock.seconds += 0.25
            bar.advance()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "fetching: 0/100 files (0 %)",
        "fetching: 40/100 files (40 %), 0:00:15 left",
        "fetching: 80/100 files (80 %), 0:00:05 left",
        "fetching: 100/100 files (100 %) in 0:00:25",
    ]


def test_slow_steps_have_a_time_left_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("epochs", 10) as bar:
        for _ in range(3):
            clock.seconds += 60
            bar.advance()
    assert "epochs: 3/10 (30 %), 0:07:00 left" in capsys.readouterr().err.splitlines()


def test_earlier_work_counts_as_progress_but_not_as_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar("fetching", 10_000_000, "bytes", done=5_000_000) as bar:
        for _ in range(2):
            clock.seconds += PLAIN_LINE_SECONDS
            bar.advance(1_000_000)
        bar.advance(-7_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching: 5.0 MB of 10.0 MB (50 %)",
        "fetching: 6.0 MB of 10.0 MB (60 %)",
        "fetching: 7.0 MB of 10.0 MB (70 %), 0:00:30 left",
        "fetching: 0 bytes of 10.0 MB (0 %) stopped after 0:00:20",
    ]


def test_note_stays_until_the_next(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("training", 3, "steps") as bar:
        bar.advance(note="loss [red]2.50")
        clock.seconds += PLAIN_LINE_SECONDS
        bar.advance()
        bar.advance(note="loss 1.25")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].endswith("loss [red]2.50")
    assert lines[-1] == "training: 3/3 steps (100 %) in 0:00:10, loss 1.25"


def test_track_yields_everything_and_knows_the_length(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(track([3, 1, 2], "reading")) == [3, 1, 2]
    assert list(track(iter("ab"), "reading")) == ["a", "b"]
    assert list(track(iter("ab"), "reading", total=2, unit="letters")) == ["a", "b"]
    assert list(track([], "reading")) == []
    lasts = capsys.readouterr().err.splitlines()[1::2]
    assert lasts == [
        "reading: 3/3 (100 %) in 0:00:00",
        "reading: 2 in 0:00:00",
        "reading: 2/2 letters (100 %) in 0:00:00",
        "reading: 0/0 in 0:00:00",
    ]


def test_an_error_closes_the_bar_and_says_how_far_it_came(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        for item in track(range(4), "reading"):
            if item == 2:
                raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capsys.readouterr().err.splitlines()[-1] == ("reading: 2/4 (50 %) stopped after 0:00:00")


def test_an_estimated_total_can_be_completed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for total, last in ((10.4, "reading: 10/10 s (100 %) in 0:00:00"), (None, "reading: 10 s in")):
        with Bar("reading", total, "s") as bar:
            bar.advance(9.9)
            bar.complete()
        assert capsys.readouterr().err.splitlines()[-1].startswith(last)


def test_closing_twice_is_closing_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("once", 1)
    bar.close()
    bar.close()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_say_without_a_bar_is_a_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("WER 5 % [of] :smile:")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("WER 5 % [of] :smile:\n", "")


def test_terminal_shows_bar_amount_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    with Bar("fetching [x]", 4_000_000, "bytes") as bar:
        bar.advance(4_000_000, note="dev-clean")
    shown = terminal.getvalue()
    assert "fetching [x]" in shown
    assert "4.0 MB of 4.0 MB" in shown
    assert "dev-clean" in shown
    assert "\x1b[?25h" in shown, "the cursor must come back"


def test_terminal_keeps_only_the_outer_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    with Bar("training", 2, "epochs") as outer:
        for _ in range(2):
            list(track(range(3), "validating"))
            outer.advance()
    last_frame = terminal.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert "training" in last_frame
    assert "2/2 epochs" in last_frame
    assert "validating" not in last_frame


def test_results_reach_a_file_while_a_terminal_shows_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = become_terminal(monkeypatch)
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    with Bar("transcribing", 1):
        say("hello [world]")
        print("plain print")
    assert file.getvalue() == "hello [world]\nplain print\n"
    assert "hello" not in terminal.getvalue()


def test_say_writes_above_the_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)
    long_line = "hello [world] :smile: " + "x" * 200
    with Bar("transcribing", 1):
        say(long_line)
    before, after = terminal.getvalue().split(long_line + "\n")
    assert "transcribing" in before
    assert "transcribing" in after, "the bar is drawn again under the line"


def test_dumb_terminal_gets_plain_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = become_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    list(track(range(2), "reading"))
    assert terminal.getvalue().splitlines() == [
        "reading: 0/2 (0 %)",
        "reading: 2/2 (100 %) in 0:00:00",
    ]


def test_import_is_light() -> None:
    check = "import sys, asr.progress; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_control_characters_are_neutralized(capfd: pytest.CaptureFixture[str]) -> None:
    harm = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"
    progress.say(f"é мой\tchào\n{harm}")
    progress.complain(harm)
    out, err = capfd.readouterr()
    escaped = r"\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"
    assert out == f"é мой\tchào\n{escaped}\n"
    assert err == f"{escaped}\n"
    progress.say('{"id": "\x7f"}', verbatim=True)
    assert capfd.readouterr().out == '{"id": "\x7f"}\n'
