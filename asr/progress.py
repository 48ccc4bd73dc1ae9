"""What users see of a program: results on stdout, errors and progress bars on stderr.

On a terminal every open `Bar` is a live bar with the time left. In a log file or a pipe it is a few
plain lines: one when the work starts, at most one every ten seconds, and one when it ends. A
`LiveLine` shows results that still change.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress


# C0 and C1 controls, and the marks that change the direction of the text after them.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
PLAIN_LINE_SECONDS = 10.0

T = TypeVar("T")

_display: "Progress | None" = None  # shared by all open bars: a terminal holds one live display
_open_bars: list["Bar"] = []


def neutralize(text: str) -> str:
    """Text in which control characters, which could steer a terminal, are written as escapes.

    Line feeds, tabs and the letters of all languages are kept.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def say(text: str, verbatim: bool = False) -> None:
    """Print lines on stdout, above the live bars if there are any.

    Control characters are neutralized, unless the text is `verbatim`, in a format for machines.
    """
    text = text if verbatim else neutralize(text)
    if _display is not None and sys.stdout.isatty():
        _display.console.out(text, highlight=False)
    else:
        print(text, flush=True)


def track(
    iterable: Iterable[T], label: str, total: int | None = None, unit: str = ""
) -> Iterator[T]:
    """Yield the items of `iterable` while a bar counts those that the caller has processed.

    `total` defaults to the length of the iterable, if it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Bar(label, total, unit) as bar:
        for item in iterable:
            yield item
            bar.advance()


class Bar(AbstractContextManager["Bar"]):
    """The progress of a task, shown from construction until `close` or the end of `with`.

    Args:
        label: The name of the task.
        total: The amount of work in `unit`; None if unknown.
        unit: A plural noun; "bytes" are shown as kB, MB or GB.
        done: The amount that was done before, which counts as progress but not as speed.
    """

    def __init__(self, label: str, total: float | None, unit: str = "", done: int = 0) -> None:
        global _display
        if _display is None:
            _display = _new_display()
            _display.start()
        self._display, self._unit = _display, unit
        self._id = _display.add_task(
            neutralize(label), total=total, completed=done, amount="", note=""
        )
        self._task = next(task for task in _display.tasks if task.id == self._id)
        _open_bars.append(self)
        self._line_at = monotonic()
        self.advance(0)
        self._write_line()

    def advance(self, n: float = 1, note: str = "") -> None:
        """Count `n` more units as done (fewer if negative); `note` replaces the last note."""
        note = neutralize(note) or self._task.fields["note"]
        amount = self._amount(self._task.completed + n)
        self._display.update(self._id, advance=n, amount=amount, note=note)
        if monotonic() - self._line_at >= PLAIN_LINE_SECONDS:
            self._write_line()

    def complete(self) -> None:
        """Set the total, which was an estimate, to the amount done."""
        if self._task.total is not None:
            self._display.update(self._id, total=self._task.completed)
            self.advance(0)

    def close(self) -> None:
        """End this bar; the last one to be closed stays on the screen."""
        global _display
        if self not in _open_bars:
            return
        _open_bars.remove(self)
        self._display.stop_task(self._id)
        self._write_line(last=True)
        if _open_bars:
            self._display.remove_task(self._id)
        else:
            self._display.stop()
            _display = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _amount(self, done: float) -> str:
        from rich.filesize import decimal

        amounts = [done] if self._task.total is None else [done, self._task.total]
        if self._unit == "bytes":
            return " of ".join(decimal(int(amount)) for amount in amounts)
        return " ".join(["/".join(f"{amount:,.0f}" for amount in amounts), self._unit]).strip()

    def _write_line(self, last: bool = False) -> None:
        if not self._display.disable:
            return
        self._line_at = monotonic()
        task = self._task
        line = f"{task.description}: {task.fields['amount']}"
        if task.total:
            line += f" ({task.percentage:.0f} %)"
        if last:
            complete = task.finished or task.total is None
            line += f" {'in' if complete else 'stopped after'} {_clock(task.elapsed or 0)}"
        elif task.time_remaining:
            line += f", {_clock(task.time_remaining)} left"
        if task.fields["note"]:
            line += f", {task.fields['note']}"
        print(line, file=sys.stderr, flush=True)


class LiveLine(AbstractContextManager["LiveLine"]):
    """A line of stdout whose text changes in place, until `close` erases it.

    If stdout is not a terminal that can do this, `is_live` is false and nothing is shown.
    """

    def __init__(self) -> None:
        self._live = _new_live() if sys.stdout.isatty() else None
        self.is_live = self._live is not None

    def show(self, stable: str, tail: str) -> None:
        """Replace the text: stable words, then words that may still change, which are dimmed.

        Only the end of a text that is longer than the line is shown.
        """
        if self._live is None:
            return
        from rich.text import Text

        stable, tail = neutralize(stable), neutralize(tail)
        width = self._live.console.width - 1
        stable = f"{stable} " if stable and tail else stable
        line = Text.assemble(stable[-width:], (tail, "dim"), no_wrap=True, end="")
        while line.cell_len > width:
            line = line[1:]
        self._live.update(line, refresh=True)

    def print(self, text: str) -> None:
        """Print a line of text above the changing line, which is cleared."""
        if self._live is None:
            return
        self._live.update("", refresh=True)
        self._live.console.out(neutralize(text), highlight=False)

    def close(self) -> None:
        """Erase the line; later calls of `show` have no effect."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __exit__(self, *_: object) -> None:
        self.close()


def _new_live() -> "Live | None":
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_interactive or console.is_dumb_terminal:
        return None
    live = Live(console=console, auto_refresh=False, transient=True)
    live.start()
    return live


def _new_display() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        # A disabled display still counts and estimates the time left, for the plain lines.
        disable=not (sys.stderr.isatty() and console.is_interactive),
        refresh_per_second=4,
        speed_estimate_period=600,
        get_time=monotonic,
        # Results on stdout may go to a file, so rich must not redirect them to stderr.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def complain(text: str) -> None:
    """Print an error message on stderr, without control characters."""
    print(neutralize(text), file=sys.stderr, flush=True)
