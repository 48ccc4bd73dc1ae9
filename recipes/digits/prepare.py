"""Create the digits corpus: numbers, times and short commands, spoken by voices of espeak-ng.

    python recipes/digits/prepare.py        # data/digits/{train,dev,test}.jsonl and their audio

The speech is synthesized offline by the library in the `espeakng-loader` wheel. Each of its hundred
voices ("variants" of formants, pitch, breath and echo) speaks eight accents of English. Training
shares the accents of dev and test, but not their voices. Speed, pitch, intonation, loudness, room and
noise are drawn for every utterance in all three sets, so that test speech is as noisy and reverberant
as training speech.

The same settings and the same wheel give the same bytes for any number of processes.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from asr.data import synthesis, voices
from asr.data.synthesis import Block, plan, speak
from asr.data.voices import Espeak
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import Bar

# These voices were chosen for their range of pitch and timbre before any model was trained. All
# other voices of the wheel are used for training.
# fmt: off
DEV_VOICES = (
    "Andrea", "Jacky", "Nguyen", "f5", "gustave", "m4", "marcelo", "pedro", "sandro", "shelby",
)
TEST_VOICES = (
    "Alex", "Annie", "Denis", "Lee", "Marco", "aunty", "ed", "f3", "grandma", "ian", "m2", "m7",
    "paul", "quincy", "victor",
)
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
ROOMS = ("kitchen", "bedroom", "garden")
DEVICES = ("light", "heating", "radio")


def draw_text(_number: int, random: np.random.Generator) -> str:
    """Draw a sentence of the grammar: a number, a time or a command, from a set of 60 words."""

    def pick(*choices: str) -> str:
        return choices[random.integers(len(choices))]

    def number() -> str:  # 0 to 99, with rare words such as "thirteen" as frequent as "three"
        tens = pick(*TENS)
        return pick(pick(*UNITS), pick(*UNITS[10:]), tens, f"{tens} {pick(*UNITS[1:10])}")

    def time() -> str:
        hour = pick(*UNITS[1:13])
        minutes = pick(pick(*UNITS[10:]), f"{pick(*TENS[:4])} {pick('', *UNITS[1:10])}".strip())
        return pick(
            f"{hour} o'clock",
            f"half past {hour}",
            f"quarter {pick('past', 'to')} {hour}",
            f"{minutes} past {hour}",
            f"{hour} {minutes}",
        )

    digits = " ".join(pick(*UNITS[:10]) for _ in range(random.integers(3, 7)))
    device = f"{pick('', *ROOMS)} {pick(*DEVICES)}".strip()
    switch = pick("on", "off", "up", "down")
    return pick(
        number(),
        f"{pick(*UNITS[1:10])} hundred",
        f"{pick(*UNITS[1:10])} hundred and {number()}",
        digits,
        f"call {digits}",
        time(),
        f"wake me at {time()}",
        f"set the alarm for {time()}",
        f"set the timer for {number()} minutes",
        f"set the {device} to {number()}",
        f"set the heating to {number()} degrees",
        f"set the volume to {number()}",
        f"turn the {device} {switch}",
        f"turn {switch} the {device}",
        f"turn {pick('up', 'down')} the volume",
        f"{pick('play', 'stop')} {pick('the timer', 'the alarm', f'radio {number()}')}",
    )


def prepare(folder: Path, utterances: int, seed: int, processes: int) -> bool:
    """Create the corpus; returns False if the folder already holds it with the same settings.

    The corpus is written to a temporary folder, which is renamed when it is complete, so that an
    interrupted run leaves no incomplete corpus.
    """
    if utterances < 20:
        raise DataError(f"{utterances} utterances are too few for a dev set; ask for 20 or more")
    settings = {
        "utterances": utterances,
        "seed": seed,
        "engine": Espeak.version(),
        "scripts": [
            hashlib.sha256(Path(script).read_bytes()).hexdigest()
            for script in (__file__, synthesis.__file__, voices.__file__)
        ],
    }
    stamp = folder / "settings.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == settings:
        return False
    if folder.exists() and not stamp.is_file():
        raise DataError(f"{folder} exists and is not a digits corpus; name another with --folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    held_out = {*DEV_VOICES, *TEST_VOICES}
    training = [voice for voice in Espeak.voices() if voice not in held_out]
    blocks: dict[str, list[Block]] = {}
    for number, (split, names, count) in enumerate(
        (
            ("train", training, utterances),
            ("dev", DEV_VOICES, utterances // 40),
            ("test", TEST_VOICES, utterances // 20),
        )
    ):
        (partial / split).mkdir(parents=True)
        blocks[split] = plan(partial, f"{split}/{split}", names, count, (seed, number), draw_text)
    total = sum(block.count for part in blocks.values() for block in part)
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in blocks}
    with Bar("Speaking", total, "utterances") as bar:
        for split, part in blocks.items():
            for block, made in zip(part, speak(part, processes), strict=True):
                rows[split] += made
                bar.advance(block.count)
    for split, made in rows.items():
        lines = (json.dumps(row) + "\n" for row in made)
        (partial / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (partial / stamp.name).write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Create the digits corpus with espeak-ng voices.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("data/digits"),
        help="folder of the corpus (%(default)s)",
    )
    parser.add_argument(
        "--utterances",
        type=int,
        default=12000,
        help="size of the training set; dev has 2.5 %% and test 5 %% of it (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all draws (%(default)s)")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that speak (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        made = prepare(arguments.folder, arguments.utterances, arguments.seed, arguments.processes)
    except AsrError as error:
        print(f"prepare.py: {error}.", file=sys.stderr)
        return EXIT_CODE
    print(f"{'created' if made else 'found'} the digits corpus in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
