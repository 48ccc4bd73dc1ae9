"""The plot of a training run: loss, error rates, learning rate and gradient norm."""

from pathlib import Path

from asr.files import save_figure
from asr.training.metrics import read_metrics


def draw_curves(folder: Path) -> None:
    """Draw loss, error rates, learning rate and gradient norm of a run into `folder/curves.png`."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    figure = Figure(figsize=(11, 7))
    # Fixed margins take half the time of matplotlib's constrained layout.
    margins = {
        "left": 0.07,
        "right": 0.98,
        "bottom": 0.07,
        "top": 0.9,
        "hspace": 0.23,
        "wspace": 0.16,
    }
    axes = figure.subplots(2, 2, gridspec_kw=margins)
    loss, errors, rate, norm = axes.flat

    x = [row["step"] for row in steps]
    loss.plot(x, [row["loss"] for row in steps], color="0.8", linewidth=0.7, label="training, step")
    ends = [row["step"] for row in epochs]
    loss.plot(ends, [row["train_loss"] for row in epochs], "o-", ms=3, label="training, epoch")
    loss.plot(ends, [row["dev_loss"] for row in epochs], "o-", ms=3, label="dev")
    loss.set(title="CTC loss per character", yscale="log")
    loss.legend()

    errors.plot(ends, [100 * row["wer"] for row in epochs], "o-", ms=3, label="WER")
    errors.plot(ends, [100 * row["cer"] for row in epochs], "o-", ms=3, label="CER")
    if epochs:
        best = min(epochs, key=lambda row: row["wer"])
        point = (best["step"], 100 * best["wer"])
        errors.plot(*point, "k*", ms=10)
        label = f"best {point[1]:.1f} %"
        errors.annotate(label, point, (-4, 10), textcoords="offset points", ha="right")
    errors.set(title="dev errors in %", ylim=(0, None))
    errors.legend()

    rate.plot(x, [row["learning_rate"] for row in steps])
    rate.set(title="learning rate", ylim=(0, None), xlabel="step")
    norm.plot(x, [row["gradient_norm"] for row in steps], linewidth=0.7)
    norm.set(title="gradient norm before clipping", yscale="log", xlabel="step")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(folder.name)
    save_figure(folder / "curves.png", figure, dpi=110)
