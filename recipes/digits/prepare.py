"""Make the digits corpus: numbers, times and short commands, spoken by the voices of espeak-ng.

    python recipes/digits/prepare.py        # data/digits/{train,dev,test}.jsonl and their audio

No download is needed: the speech comes from the library inside the `espeakng-loader` wheel. Each of
its hundred voices ("variants" of formants, pitch, breath and echo) speaks eight accents of English.
The training set contains all accents, but none of the voices of dev and test. Speed, pitch,
intonation, loudness, room and noise are drawn for every utterance, in the same way in all three
sets: test speech is as noisy and as reverberant as training speech.

The same settings and the same wheel give the same bytes, whatever the number of processes.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from asr.data import synthesis
from asr.data.synthesis import Block, plan, speak
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import Bar

# Chosen before any model was trained, for their variety of pitch and timbre. All other voices of
# the wheel are used for training.
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
    """Draw a sentence of the grammar: a number, a time or a command, from 60 different words."""

    def pick(*choices: str) -> str:
        return choices[random.integers(len(choices))]

    def number() -> str:  # 0 to 99, with rare words such as "thirteen" as often as "three"
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
    """Make the corpus; returns False if the folder already holds it with the same settings.

    It is made in a folder beside it and moved when it is complete, so that an interrupted run never
    leaves an incomplete corpus.
    """
    if utterances < 20:
        raise DataError(f"{utterances} utterances leave none for dev; ask for at least 20")
    settings = {
        "utterances": utterances,
        "seed": seed,
        "espeakng_loader": synthesis.version(),
        "scripts": [
            hashlib.sha256(Path(script).read_bytes()).hexdigest()
            for script in (__file__, synthesis.__file__)
        ],
    }
    stamp = folder / "settings.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == settings:
        return False
    if folder.exists() and not stamp.is_file():
        raise DataError(f"{folder} exists and is not a digits corpus; choose another --folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    held_out = {*DEV_VOICES, *TEST_VOICES}
    training = [voice for voice in synthesis.voices() if voice not in held_out]
    blocks: dict[str, list[Block]] = {}
    for number, (split, voices, count) in enumerate(
        (
            ("train", training, utterances),
            ("dev", DEV_VOICES, utterances // 40),
            ("test", TEST_VOICES, utterances // 20),
        )
    ):
        (partial / split).mkdir(parents=True)
        blocks[split] = plan(partial, f"{split}/{split}", voices, count, (seed, number), draw_text)
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
    parser = argparse.ArgumentParser(
        description="Make the digits corpus with the voices of espeak-ng."
    )
    parser.add_argument("--folder", type=Path, default=Path("data/digits"))
    parser.add_argument(
        "--utterances",
        type=int,
        default=12000,
        help="size of the training set; dev has 2.5 %% and test 5 %% of it (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    try:
        made = prepare(arguments.folder, arguments.utterances, arguments.seed, arguments.processes)
    except AsrError as error:
        print(f"prepare.py: {error}.", file=sys.stderr)
        return EXIT_CODE
    print(f"{'made' if made else 'found'} the digits corpus in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
