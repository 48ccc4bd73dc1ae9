"""Tables and the picture of `decoder.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from decoder_bench import CONTESTANTS, Bench

from asr.progress import say


def say_table(cells: dict[str, Any], beams: Sequence[int]) -> None:
    """Print time, WER and ratio of each decoder at each beam width."""
    say(f"{'decoder':<36}" + "".join(f"{f'beam {beam}':>24}" for beam in beams))
    for name, row in cells.items():
        texts = [
            f"{row[beam]['ms']:.3f} / {row[beam]['wer']:.2f}"
            + (f" / {row[beam]['ratio']:.2f}x" if "ratio" in row[beam] else "")
            for beam in beams
        ]
        say(f"{name:<36}" + "".join(f"{text:>24}" for text in texts))


def say_tuned(
    bench: Bench, weights: dict[str, Any], cells: dict[str, Any], beams: Sequence[int]
) -> None:
    """Print the results of the comparison with tuned weights."""
    for name, values in weights.items():
        say(f"{name:<36}" + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    say_table(cells, beams)
    say("\nOur WER minus the rival's in points, same beam width, with its 95 % confidence interval")
    for rival, _ in bench.rivals():
        differences = [cells[rival.name][beam]["ours_minus_this"] for beam in beams]
        texts = [f"{d['points']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]" for d in differences]
        say(f"{rival.name:<36}" + "".join(f"{text:>24}" for text in texts))


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw WER against time, with a line for each decoder and a point for each beam width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    panels = [
        (title, results[key]["cells"], language_model)
        for key, title, language_model in (
            ("same_weights", "language model, same weights", True),
            ("tuned", "language model, each tuned, held-out half", True),
            ("same_weights", "no language model", False),
        )
        if key in results
    ]
    figure = Figure(figsize=(6.5 * len(panels), 5.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (title, cells, language_model) in zip(axes, panels, strict=True):
        rates: list[float] = []
        for contestant in CONTESTANTS:
            if contestant.language_model != language_model or contestant.name not in cells:
                continue
            row = cells[contestant.name]
            x, y = [cell["ms"] for cell in row.values()], [cell["wer"] for cell in row.values()]
            width = 2.5 if contestant.ours else 1.3
            axis.plot(x, y, "o-", label=contestant.name, linewidth=width)
            for beam, *point in zip(row, x, y, strict=True):
                axis.annotate(
                    str(beam), point, textcoords="offset points", xytext=(4, 4), fontsize=7
                )
            rates += y
        middle, half = (max(rates) + min(rates)) / 2, (max(rates) - min(rates)) / 2
        half = max(1.2 * half, 0.5)  # nearly equal rates should look equal
        axis.set_ylim(middle - half, middle + 1.5 * half)  # leaves space for the legend
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set(title=title, xlabel="CPU ms per second of audio, one thread", ylabel="WER in %")
        axis.grid(which="both", alpha=0.25)
        axis.legend(fontsize=8, loc="upper right")
    figure.suptitle("Error rate against time; the numbers are beam widths")
    figure.savefig(path, dpi=110)
