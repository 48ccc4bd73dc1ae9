"""Synthetic speech in addition to the recordings: sentences of the texts in an engine's voices.

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

from asr.data import synthesis, voices
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import DataError, FileError
from asr.files import write_text
from asr.progress import Bar, say

# Fewest and most words of a sentence: short ones teach espeak-ng's letters, longer ones are closer to
# how people read.
WORDS = {"espeak-ng": (2, 12), "hibari": (3, 24)}
SEED = 1
STAMP = "settings.json"


def synthesize(
    sentences: Path, utterances: int, output: Path, processes: int, engine: str = "espeak-ng"
) -> list[Utterance]:
    """Speak this many sentences of a file (one per line, .gz) into `output`/synthetic.

    The same sentences, number, engine and version of it give the same bytes. A finished folder is
    kept, and an unfinished one is continued. Raises DataError if there are too few sentences or the
    engine is not installed, and FileError if the disk refuses.
    """
    folder, unfinished = output / "synthetic", output / ".synthetic.unfinished"
    settings = json.dumps(
        {
            "utterances": utterances,
            "sentences": hashlib.sha256(sentences.read_bytes()).hexdigest(),
            "engine": voices.ENGINES[engine].version(),
            "scripts": [
                hashlib.sha256(Path(script).read_bytes()).hexdigest()
                for script in (__file__, synthesis.__file__, voices.__file__)
            ],
        },
        indent=2,
    )
    if not has_settings(folder, settings):
        texts = draw_sentences(sentences, utterances, WORDS[engine])
        try:
            if not has_settings(unfinished, settings):
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                write_text(unfinished / STAMP, settings)
            rows = speak(unfinished, texts, engine, processes)
            write_manifest(unfinished / "manifest.jsonl", rows)
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


def has_settings(folder: Path, settings: str) -> bool:
    """Whether a folder was begun with these settings."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == settings


def speak(folder: Path, texts: Sequence[str], engine: str, processes: int) -> list[Utterance]:
    """Write a recording of every text, except those for which the voice gives no sound.

    Blocks that an interrupted run has finished are not spoken again.
    """
    blocks = synthesis.plan(
        folder,
        "synthetic",
        voices.ENGINES[engine].voices(),
        len(texts),
        (SEED,),
        partial(read_out, texts),
        engine,
        ".flac",
    )
    finished = {block.first: folder / "blocks" / f"{block.first:06d}.json" for block in blocks}
    missing = [block for block in blocks if not finished[block.first].is_file()]
    done = len(texts) - sum(block.count for block in missing)
    with Bar("speaking", len(texts), "utterances", done) as bar:
        for block, made in zip(missing, synthesis.speak(missing, processes), strict=True):
            write_text(finished[block.first], json.dumps(made))
            bar.advance(block.count)
    rows: list[dict[str, Any]] = []
    for path in finished.values():
        rows += json.loads(path.read_text())
    return [
        Utterance(
            id=row["id"],
            audio=str(folder / row["audio_filepath"]),
            seconds=row["duration"],
            text=row["text"],
            speaker=f"{engine} {row['speaker']}",
        )
        for row in rows
    ]


def read_out(texts: Sequence[str], number: int, _random: np.random.Generator) -> str:
    """The text of the utterance with this number; an `asr.data.synthesis.Draw`."""
    return texts[number]


def draw_sentences(sentences: Path, count: int, words: tuple[int, int]) -> list[str]:
    """Draw this many different sentences with a number of words in this range, in random order.

    Raises DataError if there are fewer.
    """
    low, high = words
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
