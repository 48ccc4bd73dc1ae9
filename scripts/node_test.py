"""Trains on two "nodes" of this machine, kills parts of them, and compares the results.

    python scripts/node_test.py [--quick] [--scenarios worker node ...] [--data data/digits] [--seed 0]

Two agents of torchrun meet at a port of localhost and start one worker each, which runs the digits
recipe with a small model without dropout on some utterances of data/digits. After an unbroken run
follow these scenarios, each at a random moment after the first checkpoint:

worker  one worker is killed; its agent restarts it
node    an agent and its worker are killed, and another agent takes their place
agent   only the agent is killed, and replaced: the worker that it leaves must end by itself
host    the agent that holds the meeting point is killed: the other one must end with an error, and
        the same two commands resume
shrink  an agent and its worker are killed and not replaced: the other one continues alone

Each must resume from last.pt, leave no process behind, and end within 0.5 % of the unbroken run's
WER on the dev set. Except for `shrink`, which ends with another number of processes, all checkpoints
and metrics.jsonl must equal those of the unbroken run, bit for bit. The exit code is 1 if anything
differs. `--quick` takes a minute or two: `worker` and `node`, fewer utterances and epochs.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crash_test import choose_data, compare

from asr.checkpoint import Checkpoint
from asr.errors import EXIT_CODE, AsrError
from asr.progress import complain, say
from asr.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
RESUMING = re.compile(r"Resuming in .* after (\d+) epochs and (\d+) steps")
WER_TOLERANCE = 0.005
HANG_SECONDS = 180.0  # more than the unbroken run took, after which a group has hung
ORPHAN_SECONDS = 30.0  # within which the worker of a killed agent must end
PATIENCE_SECONDS = 5  # how long a group of one node waits for a second one

Position = tuple[int, int]  # finished epochs, and steps within the next one


@dataclass(frozen=True)
class Recipe:
    """The settings that all runs share."""

    data: Path
    epochs: int
    hidden: int
    script: Path = ROOT / "recipes/digits/train.py"

    def arguments(self, folder: Path) -> list[str]:
        """The script and the arguments that start or resume the training in `folder`."""
        return [
            str(self.script),
            f"folder={folder}",
            f"data.train={self.data / 'train.jsonl'}",
            f"data.dev={self.data / 'dev.jsonl'}",
            f"encoder.hidden={self.hidden}",
            "encoder.layers=2",
            "encoder.dropout=0",  # its masks depend on the number of processes
            f"training.epochs={self.epochs}",
            "training.average_decay=0.99",
            "training.checkpoint_steps=5",
            "--device=cpu",
            "--threads=1",
            "--workers=0",
        ]


class Node:
    """An agent of torchrun and its worker from start to end, with their output."""

    def __init__(self, arguments: list[str], port: int, nodes: str, folder: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                f"--nnodes={nodes}",
                "--nproc-per-node=1",
                "--max-restarts=3",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint=localhost:{port}",
                "--rdzv-id=node-test",
                f"--rdzv-conf=last_call_timeout={PATIENCE_SECONDS}",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder.parent,
            # Otherwise workers meet under a key with the number of restarts of their agent, and the
            # workers of a new agent miss the others (github.com/pytorch/pytorch/issues/135712).
            env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[int]:
        """The running processes that the agent has started."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, parent = path.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.process.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def kill_workers(self) -> None:
        for number in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def kill_agent(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kill the agent first, because it would restart its worker."""
        workers = self.workers()
        self.kill_agent()
        for number in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


class Group:
    """Nodes that train together in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, nodes: str = "2") -> None:
        self.folder = folder
        self.began = time.monotonic()
        self._recipe = recipe
        self._counts = nodes
        self.nodes: list[Node] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start two nodes; the first one holds the meeting point."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        host = self.add()
        self.wait(lambda: host.ended or self._is_open(), 60, "a meeting point")
        self.add()

    def add(self) -> Node:
        node = Node(self._recipe.arguments(self.folder), self.port, self._counts, self.folder)
        self.nodes.append(node)
        return node

    def _is_open(self) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("localhost", self.port)) == 0

    def said(self, start: str) -> int:
        """The number of lines that begin with `start`."""
        return sum(line.startswith(start) for node in self.nodes for line in node.lines)

    def epochs(self) -> int:
        """The number of validated epochs, repeated ones included."""
        lines = [line for node in self.nodes for line in node.lines]
        return sum(line.startswith("Epoch ") and " dev loss " in line for line in lines)

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until `until` is true. Raises AsrError after `seconds`."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise AsrError(f"no {what} within {seconds:.0f} s: {self.describe()}")
            time.sleep(0.02)

    def wait_until_trained(self, seconds: float) -> None:
        """Wait for the end of all nodes. Raises AsrError if one failed that was not killed."""
        self.wait(lambda: all(node.ended for node in self.nodes), seconds, "end")
        failed = [
            node for node in self.nodes if node.process.returncode not in (0, -signal.SIGKILL)
        ]
        if failed or not self.said("Trained."):
            raise AsrError(f"the group did not finish: {self.describe()}")
        for node in self.nodes:
            node.listener.join(ORPHAN_SECONDS)
            if node.listener.is_alive():
                raise AsrError("a worker outlived its agent")

    def position(self) -> Position:
        """The position that last.pt holds."""
        training = Checkpoint.read(self.folder / "last.pt").training
        assert training is not None
        counters = training["counters"]
        return counters["epoch"], counters["step_in_epoch"]

    def resumed(self) -> list[Position]:
        """The positions from which the group has resumed."""
        found = [RESUMING.match(line) for node in self.nodes for line in node.lines]
        return [(int(match[1]), int(match[2])) for match in found if match]

    def describe(self) -> str:
        return " | ".join("; ".join(node.lines[-4:]) for node in self.nodes)

    def end(self) -> None:
        for node in self.nodes:
            if not node.ended:
                node.kill()


@contextlib.contextmanager
def grouped(recipe: Recipe, folder: Path, nodes: str = "2") -> Iterator[Group]:
    group = Group(recipe, folder, nodes)
    try:
        yield group
    finally:
        group.end()


def train_unbroken(recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Returns the seconds before the first step, and from there to the end."""
    with grouped(recipe, folder) as group:
        group.wait(lambda: group.said("Model:") > 0, HANG_SECONDS, "first step")
        started = time.monotonic()
        group.wait_until_trained(3600)
        return started - group.began, time.monotonic() - started


def train_broken(
    scenario: str, recipe: Recipe, folder: Path, seconds: float, draw: random.Random
) -> Iterator[str]:
    """Train through a scenario and yield what goes wrong. The unbroken training took `seconds`."""
    limit = seconds * (4 if scenario == "shrink" else 2) + HANG_SECONDS
    with grouped(recipe, folder, "1:2" if scenario == "shrink" else "2") as group:
        epochs = draw.randint(1, recipe.epochs // 2)
        saved = folder / "last.pt"  # written after the line of its epoch
        group.wait(lambda: group.epochs() >= epochs and saved.exists(), limit, "checkpoint")
        time.sleep(draw.uniform(0, seconds / recipe.epochs))
        host, other = group.nodes
        victim = draw.choice(group.nodes) if scenario == "worker" else other
        if scenario == "host":
            victim = host
        before = group.position()
        age = time.monotonic() - group.began
        if group.said("Trained.") or not victim.workers():
            raise AsrError("the training ended before the kill; give it more --epochs")
        killed = time.monotonic()
        if scenario == "worker":
            victim.kill_workers()
        elif scenario == "agent":
            victim.kill_agent()
            victim.listener.join(ORPHAN_SECONDS)
            if victim.listener.is_alive():
                raise AsrError("the worker of the killed agent is still training")
        else:
            victim.kill()
        alone = time.monotonic() - killed
        if scenario == "host":
            group.wait(lambda: other.ended, limit, "end of the other node")
            alone = time.monotonic() - killed
            if not other.process.returncode:
                yield "the other node ended without an error"
            group.nodes.clear()
            group.start()
        elif scenario in ("node", "agent"):
            group.add()
        models = group.said("Model:")
        group.wait(
            lambda: group.said("Model:") > models or all(node.ended for node in group.nodes),
            HANG_SECONDS,
            "new start",
        )
        pause = time.monotonic() - killed
        group.wait_until_trained(limit)
        resumed = group.resumed()
        say(
            f"{scenario:<7} killed after {age:5.1f} s at {before}; {alone:.1f} s to its end, training "
            f"again after {pause:.1f} s from {', '.join(map(str, resumed)) or 'the beginning'}"
        )
        if not resumed or min(resumed) < before:
            yield f"it did not resume from the last checkpoint, {before}"


def last_wer(folder: Path) -> float:
    """The dev WER of the last epoch."""
    return float([row["wer"] for row in read_metrics(folder) if row["kind"] == "epoch"][-1])


SCENARIOS = ("worker", "node", "agent", "host", "shrink")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller scenarios")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, metavar="NAME")
    parser.add_argument("--data", type=Path, default=ROOT / "data/digits")
    parser.add_argument("--utterances", type=int, help="size of the training set")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--hidden", type=int, help="memory cells per layer")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    arguments = parser.parse_args()
    utterances = arguments.utterances or (120 if arguments.quick else 2000)
    epochs = arguments.epochs or (8 if arguments.quick else 16)
    hidden = arguments.hidden or (16 if arguments.quick else 96)
    scenarios = arguments.scenarios or (SCENARIOS[:2] if arguments.quick else SCENARIOS)
    draw = random.Random(arguments.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        choose_data(arguments.data, utterances, root)
        recipe = Recipe(root, epochs, hidden)
        unbroken = root / "unbroken"
        start, seconds = train_unbroken(recipe, unbroken)
        say(
            f"unbroken: {start:.1f} s to start, {seconds:.1f} s of training, dev WER "
            f"{100 * last_wer(unbroken):.2f} %"
        )
        for scenario in scenarios:
            folder = root / scenario
            found = list(train_broken(scenario, recipe, folder, seconds, draw))
            difference = last_wer(folder) - last_wer(unbroken)
            if abs(difference) > WER_TOLERANCE:
                found.append("the WER differs too much from that of the unbroken run")
            same = "equal to the unbroken run, bit for bit"
            if scenario == "shrink":
                same = "from another number of processes"
            elif different := compare(unbroken, folder):
                found += [f"different: {line}" for line in different]
                same = "different"
            say(
                f"        dev WER {100 * last_wer(folder):.2f} % ({100 * difference:+.2f}); weights, "
                f"optimizer and metrics: {same}"
            )
            wrong += [f"{scenario}: {line}" for line in found]
    for line in wrong:
        say(line)
    say(f"\n{len(scenarios)} scenario(s), {len(wrong)} problem(s)")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except AsrError as error:
        complain(f"node_test.py: {error}.")
        sys.exit(EXIT_CODE)
