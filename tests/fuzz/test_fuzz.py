"""Some damaged inputs for every door, always the same ones, and a runner that notices every fault.

`python scripts/fuzz.py` runs as many more as wanted.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from asr.errors import AudioError
from fuzz.catalog import make_doors
from fuzz.doors import BrokenLawError, Door, Files, attempt, command, write_input
from fuzz.mutations import damage_bytes, damage_plain, damage_text
from fuzz.runner import Limits, Runner

SEED = 0
INPUTS = 4  # of a usual door


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Door]:
    return make_doors(tmp_path_factory.mktemp("doors"))


@pytest.fixture(scope="module")
def everything(doors: dict[str, Door]) -> Iterator[Runner]:
    with Runner(doors) as runner:
        yield runner


def test_every_door_takes_a_valid_input(everything: Runner) -> None:
    """Otherwise the fuzzer would only try how inputs are refused. Code is compiled here."""
    doors = everything.doors.values()
    assert [finding for door in doors for finding in everything.check_seeds(door, most=1)] == []


def test_every_door_answers_damaged_inputs(everything: Runner) -> None:
    found = [
        finding
        for door in everything.doors.values()
        for number in range(max(1, round(INPUTS * door.share)))
        for finding in everything.run(door, SEED, number)
    ]
    assert found == []


def test_an_input_is_a_function_of_door_seed_and_number(
    doors: dict[str, Door], tmp_path: Path
) -> None:
    others = make_doors(tmp_path)
    for name in ("audio", "media", "score", "arpa", "checkpoint", "release", "options"):
        one, other = doors[name], others[name]
        assert one.make_input(3, 4) == other.make_input(3, 4)
        assert len({str(one.make_input(3, number)) for number in range(20)}) > 10


def test_mutations_change_most_inputs_and_never_fail() -> None:
    draw = Random(1)
    for damage in (damage_bytes, damage_text):
        for data in (b"", b"a", b"one two 3.5\n" * 9, bytes(range(256))):
            changed = [damage(data, draw) != data for _ in range(100)]
            assert sum(changed) > 30
    values = {"a": [1, {"b": None}], "c": "text", "d": 2.5}
    assert sum(damage_plain(values, draw) != values for _ in range(100)) > 60


# Planted faults


def crash(_: Path) -> object:
    os.kill(os.getpid(), signal.SIGSEGV)
    return time.sleep(5)


def compute_forever(_: Path) -> object:
    while True:
        pass


def wait_forever(_: Path) -> object:
    return time.sleep(600)


def fill_memory(_: Path) -> object:
    return len(os.urandom(1) * 100_000_000)


def ask_for_all_memory(_: Path) -> object:
    return len(bytearray(1 << 45))


def raise_wrongly(_: Path) -> object:
    raise KeyError("planted")


def end_the_process(_: Path) -> object:
    raise SystemExit(3)


def print_something(_: Path) -> object:
    return os.write(1, b"noise\n")


def raise_two_sentences(_: Path) -> object:
    def fail() -> None:
        raise AudioError("one line\nand another")

    return attempt(fail)


def refuse(_: Path) -> object:
    return None


def plant(name: str, enter: Callable[[Path], object]) -> Door:
    def keep(files: Files, draw: Random, seeds: list[Files]) -> Files:
        return files

    return Door(name, lambda: [{"x": b"content"}], keep, enter)


PLANTED = [
    (crash, "crashed: the process ended with SIGSEGV"),
    (compute_forever, "hung: no answer"),
    (wait_forever, "hung: no answer"),
    (fill_memory, "needed .* MB of memory"),
    (ask_for_all_memory, "MemoryError"),
    (raise_wrongly, "KeyError: 'planted'"),
    (end_the_process, "crashed: the process ended with exit code 1"),
    (print_something, r"printed 'noise\\n'"),
    (raise_two_sentences, "BrokenLawError: the error is not one sentence"),
]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    planted = {enter.__name__: plant(enter.__name__, enter) for enter, _ in PLANTED}
    planted |= {"good": plant("good", lambda folder: (folder / "x").read_bytes())}
    planted |= {"refuse": plant("refuse", refuse)}
    with Runner(planted, Limits(seconds=0.5, patience=4, bytes=50_000_000)) as runner:
        yield runner


@pytest.mark.parametrize(("enter", "problem"), PLANTED)
def test_a_planted_fault_is_noticed_and_the_next_input_is_run(
    runner: Runner, enter: Callable[[Path], object], problem: str
) -> None:
    [finding] = runner.run(runner.doors[enter.__name__], 5, 7)
    assert (finding.door, finding.seed, finding.number) == (enter.__name__, 5, 7)
    assert re.match(problem, finding.problem)
    assert list(runner.run(runner.doors["good"], 5, 8)) == []


def test_a_crash_tells_where(runner: Runner) -> None:
    [finding] = runner.run(runner.doors["wait_forever"], 0, 0)
    assert "wait_forever" in finding.detail


def test_a_valid_input_that_is_refused_is_noticed(runner: Runner) -> None:
    [finding] = runner.check_seeds(runner.doors["refuse"])
    assert finding.number is None
    assert "refused a valid input" in finding.problem
    assert list(runner.check_seeds(runner.doors["good"])) == []


@pytest.mark.parametrize("name", ["../out", "a" * 300, "x\0y"])
def test_names_that_no_file_can_have_do_not_stop_the_fuzzer(name: str, tmp_path: Path) -> None:
    write_input({name: b"1", "good": b"2"}, tmp_path / "input")
    assert (tmp_path / "input/good").read_bytes() == b"2"


def test_commands_that_break_the_law_are_noticed(monkeypatch) -> None:
    from asr.progress import complain

    assert command("score", "missing", "missing")[0] == 2
    for code, text in [(2, "asr: one.\nasr: two."), (7, "asr: one."), (1, "asr: " + "a" * 10_000)]:
        monkeypatch.setattr(
            "fuzz.doors.main", lambda _, text=text, code=code: complain(text) or code
        )
        with pytest.raises(BrokenLawError):
            command("score")
