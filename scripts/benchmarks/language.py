"""Large language models: time and memory to write, open and estimate them.

    python scripts/benchmarks/language.py [--ngrams 5000000] [--text FILE]

A random model of order 3 is written in every format, and each file is opened in a new process. This
prints the CPU seconds until it is open and until the first score, and the growth of resident memory.
With --text (plain or gzip, one sentence per line), a model of that text is estimated as well.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import finish, make_parser

from asr.lm.estimation import EstimationConfig, read_sentences
from asr.lm.model import LanguageModel
from asr.lm.ngrams import NGramTable
from asr.progress import say

WORDS = 200_000
OPEN = """
import json, sys, time
from asr.lm.model import LanguageModel
LanguageModel.read(sys.argv[2]).score("w1 w2 w3")  # loads the machine code before the clock starts
def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024
memory, began = resident(), time.process_time()
model = LanguageModel.read(sys.argv[1])
opened = time.process_time() - began
model.score("w1 w2 w3")
print(json.dumps([opened, time.process_time() - began, resident() - memory]))
"""


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--ngrams", type=int, default=5_000_000, help="size of the random model (%(default)s)"
    )
    parser.add_argument("--text", help="text from which a model is estimated")
    parser.add_argument(
        "--order", type=int, default=4, help="order of the estimated model (%(default)s)"
    )
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[0],
        help="n-grams of each order up to these counts are pruned (0)",
    )
    return finish(run, parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Measure the random model and, if there is a text, the estimation."""
    with tempfile.TemporaryDirectory() as folder:
        measure_formats(Path(folder), options.ngrams)
    if options.text:
        measure_estimation(options.text, EstimationConfig(options.order, options.prune))


def measure_formats(folder: Path, ngrams: int) -> None:
    """Write a random model in every format, and print the cost of opening each."""
    model = random_model(ngrams)
    say(f"{sum(model.counts):,} n-grams: {', '.join(f'{count:,}' for count in model.counts)}")
    small = folder / "small.lm"
    random_model(1).write(small)
    writers = {
        "binary": lambda path: model.write(path),
        "binary, quantized": lambda path: model.write(path, quantize=True),
        "model.arpa": model.write_arpa,
        "model.arpa.gz": model.write_arpa,
    }
    say(f"{'format':<20}{'write s':>9}{'MB':>8}{'open s':>9}{'+ score s':>11}{'memory MB':>11}")
    for name, write in writers.items():
        path = folder / name.replace(", ", "-")
        began = time.process_time()
        write(path)
        written = time.process_time() - began
        done = subprocess.run(
            [sys.executable, "-c", OPEN, path, small], capture_output=True, text=True, check=True
        )
        opened, scored, grown = json.loads(done.stdout)
        size = path.stat().st_size / 1e6
        say(f"{name:<20}{written:>9.2f}{size:>8.1f}{opened:>9.3f}{scored:>11.3f}{grown:>11.1f}")


def random_model(ngrams: int) -> LanguageModel:
    """A random model of order 3 with about `ngrams` n-grams."""
    random = np.random.default_rng(1)
    words = ["<unk>", "<s>", "</s>", *(f"w{number:x}" for number in range(WORDS - 3))]
    wanted = max(ngrams - WORDS, 10)

    def draw(count: int) -> np.ndarray:
        return (WORDS * random.random(count) ** 3).astype(np.int32)

    bigrams = np.unique(np.stack([draw(wanted * 2 // 5), draw(wanted * 2 // 5)], axis=1), axis=0)
    contexts = bigrams[random.integers(0, len(bigrams), wanted * 3 // 5)]
    trigrams = np.unique(np.column_stack([contexts, draw(len(contexts))]), axis=0)

    def table(rows: np.ndarray, highest: bool) -> NGramTable:
        log_prob = (-10 * random.random(len(rows))).astype(np.float32)
        backoff = (-random.random(len(rows))).astype(np.float32)
        return NGramTable(rows, log_prob, None if highest else backoff)

    unigrams = np.arange(WORDS, dtype=np.int32)[:, None]
    tables = [table(unigrams, False), table(bigrams, False), table(trigrams, True)]
    return LanguageModel.from_ngrams(words, tables)


def measure_estimation(text: str, config: EstimationConfig) -> None:
    """Estimate a model, and print the time and the peak memory of this process."""
    began = time.process_time()
    model = LanguageModel.estimate(
        read_sentences([text]), config.order, config.prune, config.vocabulary_limit
    )
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    counts = ", ".join(f"{count:,}" for count in model.counts)
    say(
        f"order {config.order}, pruned {config.prune}: {counts} n-grams in {seconds:.1f} s of CPU; "
        f"peak memory of this process {peak:.2f} GB"
    )


if __name__ == "__main__":
    sys.exit(main())
