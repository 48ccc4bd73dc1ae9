"""Effect and cost of hotwords.

    python scripts/benchmarks/hotwords.py       needs a folder of log-probs

The rarest words of the references, which the language model has never or hardly seen, are given as
hotwords among 1,000 entries; the other entries are rare words that nobody says. For each weight this
prints the recall of the planted words, the number of false hotwords, the WER of all other words, and
the decoder's time relative to decoding without hotwords, with both alternating in the same run.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
from harness import DECODER_DATA, finish, make_parser

from asr.decoder.beam import BeamDecoder
from asr.decoder.config import DecoderConfig
from asr.errors import DataError
from asr.files import write_atomically
from asr.lm.model import LanguageModel
from asr.progress import say, track
from asr.scoring import score
from asr.text import Vocabulary

ENTRIES = 1000
# Words with a lower natural log-probability are rare: about one occurrence in 270,000 words.
RARE_LOG_PROB = -12.5
FRAME_SECONDS = 0.04


def main() -> int:
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument(
        "--bench", type=Path, default=DECODER_DATA, help="folder of emissions.npz and lm3.arpa.gz"
    )
    parser.add_argument("--beam", type=int, default=16, help="beam width (%(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 2, 4, 6, 8, 10, 12, 15, 20])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-hotwords"))
    return finish(run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Measure all weights, print the table and draw the picture."""
    matrices, references = read_bench(options.bench)
    model = LanguageModel.read(options.bench / "lm3.arpa.gz")
    planted, entries = choose(references, model)
    spoken = sum(word in planted for text in references.values() for word in text.split())
    say(
        f"{len(references)} utterances; {len(planted)} rare words said {spoken} times, "
        f"among {len(entries)} hotwords; beam width {options.beam}"
    )
    vocabulary = Vocabulary.english()
    config = DecoderConfig("beam", beam=options.beam)
    plain = BeamDecoder(vocabulary, FRAME_SECONDS, config, model)
    rows = []
    for weight in track(options.weights, "weights", unit="weights"):
        hot = BeamDecoder(
            vocabulary, FRAME_SECONDS, config, model, hotwords=dict.fromkeys(entries, weight)
        )
        ratio = time_ratio(hot, plain, list(matrices.values()), options.rounds)
        texts = {name: hot.decode(matrix).text for name, matrix in matrices.items()}
        rows.append((weight, *measure(references, texts, planted, set(entries)), ratio))
    texts = {name: plain.decode(matrix).text for name, matrix in matrices.items()}
    without = measure(references, texts, planted, set(entries))

    say(f"{'weight':>8}{'recall %':>10}{'false':>7}{'other WER %':>13}{'WER %':>8}{'time':>7}")
    recall, false, other, wer = without
    say(f"{'none':>8}{recall:>10.1f}{false:>7}{other:>13.2f}{wer:>8.2f}{1:>7.2f}")
    for weight, recall, false, other, wer, ratio in rows:
        say(f"{weight:>8g}{recall:>10.1f}{false:>7}{other:>13.2f}{wer:>8.2f}{ratio:>7.2f}")
    draw(rows, without, options.output / "hotwords.png")


def read_bench(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Log-probs (T', V) and references by name."""
    path = folder / "emissions.npz"
    if not path.exists():
        raise DataError(f"{path} does not exist; name a folder with --bench")
    with np.load(path) as data:
        rows, lengths = data["logp"].astype(np.float32), data["lens"]
        references = [str(text) for text in data["refs"]]
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    return dict(zip(map(str, range(len(parts))), parts, strict=True)), dict(
        zip(map(str, range(len(parts))), references, strict=True)
    )


def choose(references: dict[str, str], model: LanguageModel) -> tuple[set[str], list[str]]:
    """The planted words, which are rare and said, and all 1,000 entries of the hotword list."""
    log_probs = {
        word: float(log_prob)
        for word, log_prob in zip(model.words, model.ngrams.log_prob[1:], strict=False)
    }
    said = Counter(word for text in references.values() for word in text.split())
    planted = {
        word for word in said if len(word) > 3 and log_probs.get(word, -np.inf) < RARE_LOG_PROB
    }
    others = sorted(
        (word for word in log_probs if word not in said and word.isalpha() and len(word) > 3),
        key=lambda word: log_probs[word],
    )
    wanted = sorted(planted)[:ENTRIES]
    return set(wanted), wanted + others[: ENTRIES - len(wanted)]


def measure(
    references: dict[str, str], texts: dict[str, str], planted: set[str], entries: set[str]
) -> tuple[float, int, float, float]:
    """Recall of the planted words (%), false hotwords, WER of other words and of all words (%)."""
    report = score(references, texts)
    found = said = false = other_errors = other_words = 0
    for utterance in report.utterances:
        for reference, hypothesis in utterance.alignment:
            if reference in planted:
                said += 1
                found += reference == hypothesis
            else:
                other_words += bool(reference)
                other_errors += reference != hypothesis
                false += hypothesis in entries
    return (
        100 * found / max(said, 1),
        false,
        100 * other_errors / max(other_words, 1),
        100 * report.wer,
    )


def time_ratio(
    one: BeamDecoder, other: BeamDecoder, matrices: list[np.ndarray], rounds: int
) -> float:
    """The median ratio of CPU times of `one` to `other`, alternating on the same matrices."""
    ratios = []
    for decoder in (one, other):
        decoder.decode_many(matrices[:2])
    for _ in range(rounds):
        seconds = []
        for decoder in (one, other):
            begin = time.process_time()
            decoder.decode_many(matrices[::4])
            seconds.append(time.process_time() - begin)
        ratios.append(seconds[0] / seconds[1])
    return median(ratios)


def draw(rows: list[tuple], without: tuple, path: Path) -> None:
    """Draw recall and WER against the weight; dotted lines are the results without hotwords."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    weights = [row[0] for row in rows]
    axes.plot(weights, [row[1] for row in rows], "o-", label="recall of the hotwords (left)")
    axes.axhline(without[0], linestyle=":", color="C0")
    axes.set(xlabel="weight, nats per word", ylabel="recall, %", title=f"{ENTRIES:,} hotwords")
    right = axes.twinx()
    right.plot(weights, [row[3] for row in rows], "s-", color="C1", label="WER of the rest (right)")
    right.axhline(without[2], linestyle=":", color="C1")
    right.set(ylabel="WER of the other words, %")
    right.set_ylim(bottom=0)
    lines = [*axes.get_lines()[:1], *right.get_lines()[:1]]
    axes.legend(lines, [line.get_label() for line in lines], loc="center left")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    say(f"picture: {path}")


if __name__ == "__main__":
    sys.exit(main())
