"""The table and the picture of `streaming.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.files import write_atomically
from asr.progress import say

RIVAL = "pocketsphinx"
# 99 % of the chunks must be ready within this time.
LIMIT_SECONDS = 0.3


def say_conditions(options: argparse.Namespace, together: int) -> None:
    """Print the settings and the head of the table."""
    say(
        f"{together} streams: medians of {options.rounds} rounds of {options.round_seconds:g} s, "
        f"CPU ms per second of audio, one thread; live: {options.cores} processes, runs of "
        f"{options.seconds:g} s, ms beyond the algorithmic latency; load of the machine before and "
        "after"
    )
    say(
        f"{'decoder':<9}{'latency':>8}{'together':>10}{'one by one':>12}{'ratio':>7}"
        f"{'streams':>9}{'p50':>6}{'p99':>6}{'busy':>7}{'load':>12}"
    )


def say_point(point: dict[str, Any]) -> None:
    """Print a line of the table."""
    line = (
        f"{point['decoder']:<9}{point['latency_ms']:>8g}{point['together']:>10.2f}"
        f"{point['one_by_one']:>12.2f}{point['one_by_one_ratio']:>7.2f}"
    )
    if most := point["most"]:
        line += (
            f"{most['streams']:>9}{1000 * most['p50']:>6.0f}{1000 * most['p99']:>6.0f}"
            f"{100 * most['busy']:>5.0f} %"
        )
    else:
        line += f"{'none':>9}{'':>19}"
    before, after = point["load"]
    say(f"{line}{before:>6.1f}{after:>6.1f}")
    if RIVAL in point:
        say(
            f"{point['version']}: {point[RIVAL]:.2f}; {point[f'{RIVAL}_ratio']:.1f} times ours "
            f"together, {point[RIVAL] / point['one_by_one']:.1f} times ours one by one"
        )


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw latency against the number of streams, with a color for each decoder and latency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for number, point in enumerate(points):
        runs = point["runs"]
        x = [run["streams"] for run in runs]
        label = f"{point['decoder']}, {point['latency_ms']:g} ms"
        for key, style in (("p50", "o--"), ("p99", "o-")):
            y = [max(1.0, 1000 * run[key]) for run in runs]
            axis.plot(x, y, style, color=f"C{number}", ms=4, label=f"{label}: {key}")
    axis.axhline(1000 * LIMIT_SECONDS, color="0.4", linestyle=":")
    axis.set(
        title="Time from the arrival of a chunk to its partial result",
        xlabel="live streams",
        ylabel="ms beyond the algorithmic latency",
        yscale="log",
        xlim=(0, None),
    )
    axis.grid(which="both", alpha=0.25)
    axis.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
