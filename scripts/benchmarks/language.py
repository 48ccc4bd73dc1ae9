"""Language models at size: `python scripts/benchmark_language.py [--ngrams 5000000] [--text FILE]`.

Makes a random model of order 3 with that many n-grams, writes it in every form, and opens each form
in a fresh process: seconds of CPU to open it and to give the first score, and what the resident
memory grows by. With --text (plain or gzip, a sentence a line), a model of it is estimated as well.
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

from asr.errors import EXIT_CODE, AsrError
from asr.lm.estimation import EstimationConfig, estimate, read_sentences
from asr.lm.model import LanguageModel
from asr.lm.ngrams import NGramTable
from asr.progress import complain, say

WORDS = 200_000
OPEN = """
import json, sys, time
from asr.lm.model import LanguageModel
LanguageModel.read(sys.argv[2]).score("w1 w2 w3")  # its machine code is loaded before the clock
def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024
memory, began = resident(), time.process_time()
model = LanguageModel.read(sys.argv[1])
opened = time.process_time() - began
model.score("w1 w2 w3")
print(json.dumps([opened, time.process_time() - began, resident() - memory]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ngrams", type=int, default=5_000_000)
    parser.add_argument("--text", help="text to estimate a model from")
    parser.add_argument("--order", type=int, default=4, help="of that model (default: 4)")
    parser.add_argument("--prune", type=int, nargs="+", default=[0], help="(default: 0)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure_forms(Path(folder), options.ngrams)
        if options.text:
            measure_estimation(options.text, EstimationConfig(options.order, options.prune))
    except AsrError as error:
        complain(f"benchmark_language.py: {error}")
        return EXIT_CODE
    return 0


def measure_forms(folder: Path, ngrams: int) -> None:
    """Write a random model in every form, and print what opening each costs."""
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
    say(f"{'form':<20}{'write s':>9}{'MB':>8}{'open s':>9}{'+ score s':>11}{'memory MB':>11}")
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
    """A model of order 3 with about `ngrams` n-grams; words follow each other as chance has it."""
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
    """Estimate a model and print the time and the memory of this process."""
    began = time.process_time()
    model = estimate(read_sentences([text]), config)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    counts = ", ".join(f"{count:,}" for count in model.counts)
    say(
        f"order {config.order}, pruned {config.prune}: {counts} n-grams in {seconds:.1f} s of CPU; "
        f"peak memory of this process {peak:.2f} GB"
    )


if __name__ == "__main__":
    sys.exit(main())
