"""Synthetic speech in addition to the recordings: sentences of the texts in espeak-ng's voices.

On ten hours of recordings alone, a network takes long to learn what letters sound like; it learns
that quickly from clean synthetic speech, and then transfers to people (docs/log.md).
"""

import gzip
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.data import synthesis
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import DataError, FileError
from asr.progress import Bar, say

WORDS = (2, 12)  # fewest and most words of a sentence
SEED = 1


def synthesize(sentences: Path, utterances: int, output: Path, processes: int) -> list[Utterance]:
    """Speak this many sentences of a file (one per line, .gz) into `output`/synthetic.

    The same sentences, number and version of espeakng-loader give the same bytes; a finished folder
    is kept. Raises DataError if there are too few sentences or the voices are not installed, and
    FileError if the disk refuses.
    """
    folder, unfinished = output / "synthetic", output / ".synthetic.unfinished"
    settings = {
        "utterances": utterances,
        "sentences": hashlib.sha256(sentences.read_bytes()).hexdigest(),
        "espeakng_loader": synthesis.version(),
        "scripts": [
            hashlib.sha256(Path(script).read_bytes()).hexdigest()
            for script in (__file__, synthesis.__file__)
        ],
    }
    stamp = folder / "settings.json"
    if not (stamp.is_file() and json.loads(stamp.read_text()) == settings):
        texts = draw_sentences(sentences, utterances)
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # left over if an earlier run was killed
            unfinished.mkdir(parents=True)
            rows = speak(unfinished, texts, processes)
            write_manifest(unfinished / "manifest.jsonl", rows)
            (unfinished / stamp.name).write_text(json.dumps(settings, indent=2) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.replace(folder)
        except OSError as error:
            raise FileError(
                f"{folder} cannot be written ({error.strerror}); free some space or name another "
                "--output"
            ) from error
    spoken = read_manifest(folder / "manifest.jsonl")
    hours = sum(utterance.seconds for utterance in spoken) / 3600
    say(f"{folder}: {len(spoken):,} utterances, {hours:.2f} h")
    return spoken


def speak(folder: Path, texts: Sequence[str], processes: int) -> list[Utterance]:
    """Write a recording of every text, except those for which the voice gives no sound."""
    draw = partial(read_out, texts)
    blocks = synthesis.plan(folder, "synthetic", synthesis.voices(), len(texts), (SEED,), draw)
    rows: list[dict[str, Any]] = []
    with Bar("speaking", len(texts), "utterances") as bar:
        for block, made in zip(blocks, synthesis.speak(blocks, processes), strict=True):
            rows += made
            bar.advance(block.count)
    return [
        Utterance(
            id=row["id"],
            audio=str(folder / row["audio_filepath"]),
            seconds=row["duration"],
            text=row["text"],
            speaker=f"espeak-ng {row['speaker']}",
        )
        for row in rows
    ]


def read_out(texts: Sequence[str], number: int, _random: np.random.Generator) -> str:
    """The text of the utterance with this number; an `asr.data.synthesis.Draw`."""
    return texts[number]


def draw_sentences(sentences: Path, count: int) -> list[str]:
    """Draw this many different sentences of WORDS, in random order; DataError if there are fewer."""
    low, high = WORDS
    with gzip.open(sentences, "rt", encoding="utf-8") as file:
        fitting = dict.fromkeys(line.strip() for line in file if low <= line.count(" ") + 1 <= high)
    if len(fitting) < count:
        raise DataError(
            f"{sentences} has {len(fitting):,} sentences of {low} to {high} words, fewer than the "
            f"{count:,} of --synthetic; ask for fewer or give more --text"
        )
    random = np.random.default_rng(SEED)
    texts = list(fitting)
    return [texts[index] for index in random.choice(len(texts), count, replace=False)]
