"""Sends damaged inputs through every door of asr and reports each that breaks the law.

    python scripts/fuzz.py --seed 1 --minutes 10 [--door NAME] [--inputs N] [--folder findings]
    python scripts/fuzz.py --door audio --seed 1 --only 4711

The law: an input gives a result or an AsrError; a command ends with 0, 1 or 2 and at most one sentence.
Whatever crashes, hangs for more than 10 s, needs more than 1 GB or raises anything else is a finding.
Each is printed with its door, seed and number, and its files are written to a folder that is named.
The same door, seed and number make the same input again, which the second form runs alone. The exit
code is 1 if anything was found.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzz.catalog import make_doors  # noqa: E402
from fuzz.doors import Door, write_input  # noqa: E402
from fuzz.runner import Finding, Runner  # noqa: E402

from asr.errors import EXIT_CODE, SOME_FAILED, AsrError  # noqa: E402
from asr.progress import complain, say  # noqa: E402

SLICE = 20  # inputs of a door before the next turn
SAY_SECONDS = 30.0  # time between two lines of progress


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="seed of the random numbers (default: 0)")
    add("--minutes", type=float, help="stop after this time (default: 5, or never with --inputs)")
    add("--inputs", type=int, help="stop after this number of inputs (default: no limit)")
    add("--door", action="append", metavar="NAME", help="only this door; repeatable (default: all)")
    add("--only", type=int, metavar="NUMBER", help="only the input with this number of one --door")
    add("--folder", type=Path, default=Path("findings"), help="for the inputs that were found")
    arguments = parser.parse_args()
    if arguments.only is not None and len(arguments.door or []) != 1:
        parser.error("--only needs one --door")
    if arguments.minutes is None:
        arguments.minutes = float("inf") if arguments.inputs else 5.0
    return arguments


def choose_doors(names: list[str] | None, doors: dict[str, Door]) -> list[Door]:
    """The doors that are named, or all. Raises AsrError for an unknown name."""
    for name in names or []:
        if name not in doors:
            raise AsrError(f"there is no door {name!r}; use one of {', '.join(doors)}")
    return [doors[name] for name in names or doors]


def report(finding: Finding, doors: dict[str, Door], folder: Path) -> None:
    """Print a finding, and write its input and what is known about it to a folder of its own."""
    if finding.number is None:
        say(f"FOUND: door {finding.door}, a valid input: {finding.problem}\n{finding.detail}")
        return
    place = folder / f"{finding.door}-{finding.seed}-{finding.number}"
    write_input(doors[finding.door].make_input(finding.seed, finding.number), place / "input")
    (place / "problem.txt").write_text(f"{finding.problem}\n\n{finding.detail}\n", "utf-8")
    say(
        f"FOUND: door {finding.door}, seed {finding.seed}, input {finding.number}: "
        f"{finding.problem}\n  {place}; run it again: python scripts/fuzz.py --door {finding.door} "
        f"--seed {finding.seed} --only {finding.number}"
    )


def fuzz(arguments: argparse.Namespace, doors: dict[str, Door], chosen: list[Door]) -> int:
    """Run the inputs until the time or their number is over; returns the number of findings."""
    began = said = time.monotonic()
    end = began + 60 * arguments.minutes
    done: Counter[str] = Counter()
    most = arguments.inputs or sys.maxsize
    found = 0
    with Runner(doors) as runner:
        for door in chosen:
            for finding in runner.check_seeds(door):
                found += 1
                report(finding, doors, arguments.folder)
        say(f"The valid inputs of {len(chosen)} doors were run ({time.monotonic() - began:.0f} s).")
        while done.total() < most and time.monotonic() < end:
            door = min(chosen, key=lambda door: done[door.name] / door.share)
            for number in range(done[door.name], done[door.name] + SLICE):
                if done.total() >= most or time.monotonic() >= end:
                    break
                for finding in runner.run(door, arguments.seed, number):
                    found += 1
                    report(finding, doors, arguments.folder)
                done[door.name] += 1
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                say(f"{done.total():,} inputs, {found} findings, {said - began:.0f} s")
    say(
        f"{done.total():,} inputs of {len(chosen)} doors with seed {arguments.seed}, {found} findings, "
        f"{time.monotonic() - began:.0f} s."
    )
    return found


def run_one(arguments: argparse.Namespace, doors: dict[str, Door], door: Door) -> int:
    """Run a single input and print all that is known; returns the number of findings."""
    with Runner(doors) as runner:
        findings = list(runner.run(door, arguments.seed, arguments.only))
    for finding in findings:
        report(finding, doors, arguments.folder)
        say(finding.detail)
    if not findings:
        say(f"Door {door.name}, seed {arguments.seed}, input {arguments.only}: as it should be.")
    return len(findings)


def main() -> int:
    """Run the command and return the exit code."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="asr-fuzz-") as folder:
        doors = make_doors(Path(folder))
        chosen = choose_doors(arguments.door, doors)
        if arguments.only is not None:
            found = run_one(arguments, doors, chosen[0])
        else:
            found = fuzz(arguments, doors, chosen)
    return SOME_FAILED if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        complain(f"fuzz.py: {error}.")
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
