"""Prepare your own recordings: x.wav with its transcript x.txt beside it, in any audio format.

    python recipes/folder/prepare.py my-recordings        # data/folder: train.jsonl, dev.jsonl

Each sub-folder is taken as a speaker, whose recordings all go to the same set, so that the word error
rate on dev is that of unseen speakers. Without sub-folders, recordings are divided one by one. The
division is the same on every run.
"""

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asr.audio.waveform import count_other_files, describe_other_files
from asr.data.corpora import read_folder
from asr.data.manifest import Utterance, summarize_rejects, write_manifest
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import complain, say
from asr.text import PROFILES, describe_characters, is_letter


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        changes: Counter[str] = Counter()
        utterances, rejects = read_folder(options.folder, options.profile, changes)
        if rejects:
            say(summarize_rejects(rejects))
        if others := count_other_files(options.folder):
            say(describe_other_files(options.folder, others))
        report(utterances, changes, options.profile)
        if len(utterances) < 2:
            raise DataError(
                f"{options.folder} holds too few usable utterances ({len(utterances)}); training and "
                "dev need at least one each"
            )
        for name, part in zip(
            ("train", "dev"), divide(utterances, options.dev_fraction), strict=True
        ):
            manifest = options.output / f"{name}.jsonl"
            write_manifest(manifest, part)
            hours = sum(utterance.seconds for utterance in part) / 3600
            say(f"{manifest}: {len(part):,} utterances, {hours:.2f} hours")
    except AsrError as error:
        complain(f"prepare.py: {str(error).removesuffix('.')}.")
        return EXIT_CODE
    return 0


def report(utterances: Sequence[Utterance], changes: Counter[str], profile: str) -> None:
    """Say which characters the profile removed or replaced, and which ones the texts have now."""
    letters = Counter({name: count for name, count in changes.items() if is_letter(name)})
    if letters:
        say(
            f"letters that the profile {profile} replaced or removed: "
            f"{describe_characters(letters)}; --profile multilingual keeps them"
        )
    if signs := changes - letters:
        say(f"signs that the profile {profile} replaced or removed: {describe_characters(signs)}")
    characters = Counter("".join(utterance.text for utterance in utterances))
    del characters[" "]
    if characters:
        say(f"characters of the texts: {describe_characters(characters, limit=200)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of recordings and transcripts")
    parser.add_argument(
        "--dev-fraction",
        type=fraction,
        default=0.1,
        help="fraction of the hours that goes to dev (%(default)s)",
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="multilingual",
        help="how transcripts are normalized: "
        + "; ".join(f"{name}: {what}" for name, what in PROFILES.items())
        + " (%(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("data/folder"), help="folder of manifests (%(default)s)"
    )
    return parser.parse_args(arguments)


def fraction(text: str) -> float:
    """Parse a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def divide(
    utterances: Sequence[Utterance], dev_fraction: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Divide utterances into (train, dev) by speakers.

    Speakers are assigned to dev in the order of their names' hashes until it has its share. Unlike a
    shuffle, hashes keep most of the division when recordings are added.
    """
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:  # the id is the path below the folder
        groups.setdefault(utterance.id.partition("/")[0], []).append(utterance)
    if len(groups) == 1:  # one speaker
        groups = {utterance.id: [utterance] for utterance in utterances}
    seconds = {name: sum(each.seconds for each in group) for name, group in groups.items()}
    room = dev_fraction * sum(seconds.values())
    dev: set[str] = set()
    for name in sorted(groups, key=digest)[:-1]:  # the last one always goes to training
        if seconds[name] / 2 <= room:  # adding it brings dev closer to its share
            dev.add(name)
            room -= seconds[name]
    dev = dev or {min(groups, key=lambda name: (seconds[name], digest(name)))}
    return (
        [each for name, group in groups.items() if name not in dev for each in group],
        [each for name, group in groups.items() if name in dev for each in group],
    )


def digest(name: str) -> bytes:
    """A hash by which names are ordered."""
    return hashlib.sha256(os.fsencode(name)).digest()


if __name__ == "__main__":
    sys.exit(main())
