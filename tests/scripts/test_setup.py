"""scripts/setup: what it installs, when, and what it says where it cannot."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Writes down what it is asked to do; `-m venv` makes .venv with a copy of itself.
PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
if [ "$2" = venv ]; then
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
fi
"""


class Machine:
    """A checkout on a machine that has bash, three tools, and the Python that it is given."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in ("bash", "cat", "cp", "dirname", "mkdir"):
            program = shutil.which(name)
            assert program is not None
            (self.programs / name).symlink_to(program)
        self.calls = folder / "calls"
        self.checkout = folder / "checkout"
        (self.checkout / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup", self.checkout / "scripts")
        (self.checkout / "pyproject.toml").write_text("[project]\n")

    def give_python(self, name: str, code: str = PYTHON) -> None:
        (self.programs / name).write_text(code)
        (self.programs / name).chmod(0o755)

    def set_up(self) -> tuple[int, str, list[str]]:
        """Exit status, what was printed, and what Python was asked to do but to show itself."""
        self.calls.write_text("")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source '{self.checkout}/scripts/setup'; pwd"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": str(self.programs), "CALLS": str(self.calls)},
            cwd="/",
        )
        calls = self.calls.read_text().splitlines()
        return done.returncode, done.stdout, [call for call in calls if not call.startswith("-c")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def kinds(calls: list[str]) -> list[str]:
    return [call.split()[1] for call in calls]


def test_installs_once_and_again_when_something_changed(machine: Machine) -> None:
    machine.give_python("python3")
    status, printed, calls = machine.set_up()
    assert (status, kinds(calls)) == (0, ["venv", "pip"])
    assert calls[1].endswith("-e .[dev]")
    assert "installation took" in printed
    assert printed.endswith(f"{machine.checkout}\n")  # it has gone to the root

    status, printed, calls = machine.set_up()
    assert (status, calls) == (0, [])
    assert "up to date" in printed

    (machine.checkout / "pyproject.toml").write_text("[project]\nname = 'asr'\n")
    assert kinds(machine.set_up()[2]) == ["pip"]

    machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
    assert kinds(machine.set_up()[2]) == ["pip"]  # the editable install names the old folder
    assert machine.set_up()[2] == []


def test_an_installation_that_failed_is_not_taken_for_one(machine: Machine) -> None:
    machine.give_python("python3", PYTHON + 'if [ "$2" = pip ]; then exit 1; fi\n')
    assert machine.set_up()[0] == 1
    status, _, calls = machine.set_up()
    assert (status, kinds(calls)) == (1, ["pip"])


def test_the_first_python_that_is_new_enough_is_taken(machine: Machine) -> None:
    machine.give_python("python3", "#!/bin/bash\nexit 1\n")
    machine.give_python("python3.12")
    status, _, calls = machine.set_up()
    assert (status, kinds(calls)) == (0, ["venv", "pip"])


@pytest.mark.parametrize("old", [True, False])
def test_without_a_usable_python_it_says_what_to_do(machine: Machine, old: bool) -> None:
    if old:
        machine.give_python("python3", '#!/bin/bash\n[ "$1" = --version ] && echo Python 3.6.1\n')
    status, printed, _ = machine.set_up()
    assert status == 1
    assert "install Python 3.11 or newer with its venv module" in printed
    assert ("Python 3.6.1" in printed) == old
