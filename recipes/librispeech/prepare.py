"""Prepare LibriSpeech: download subsets or use an existing folder, and write manifests.

    python recipes/librispeech/prepare.py                                    # downloads 7.1 GB
    python recipes/librispeech/prepare.py --subsets train-clean-100 dev-clean
    python recipes/librispeech/prepare.py --folder LibriSpeech --train train-mini --dev dev-mini
    python recipes/librispeech/prepare.py --subsets --language-models 3-gram.pruned.1e-7.arpa.gz

A manifest is written for each subset. train.jsonl and dev.jsonl, which train.py reads, contain the
train-* subsets (or those of --train) and dev-clean (or those of --dev) of this call. After an
interruption, the same command continues where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from download import fetch, missing_bytes, require_space, unpack

from asr.data.corpora import read_librispeech
from asr.data.manifest import Utterance, summarize_rejects, write_manifest
from asr.errors import EXIT_CODE, AsrError, DataError
from asr.progress import complain, say

SITE = "https://www.openslr.org/resources"


class Published(NamedTuple):
    """A file on the site."""

    path: str  # relative to the site or its mirrors
    size_bytes: int
    md5: str


# Panayotov et al. 2015, https://www.openslr.org/12. MD5 sums: its resources/12/md5sum.txt, as kept
# by PaddlePaddle/PaddleSpeech dataset/librispeech/librispeech.py. Sizes: tensorflow/datasets
# url_checksums/librispeech.txt and kaldi-asr/kaldi egs/librispeech/s5/local/download_and_untar.sh.
SUBSETS = {
    name: Published(f"12/{name}.tar.gz", size_bytes, md5)
    for name, size_bytes, md5 in (
        ("train-clean-100", 6_387_309_499, "2a93770f6d5c6c964bc36631d331a522"),
        ("train-clean-360", 23_049_477_885, "c0e676e450a7ff2f54aeade5171606fa"),
        ("train-other-500", 30_593_501_606, "d1a0fd59409feb2c614ce4d30c387708"),
        ("dev-clean", 337_926_286, "42e2234ba48799c1f50f24a7926300a1"),
        ("dev-other", 314_305_928, "c8d0bcc9cca99d4f8b62fcc847357931"),
        ("test-clean", 346_663_984, "32fa31d27d2e1cad72775fee3f4849a9"),
        ("test-other", 328_757_843, "fb5a50374b501bb3bac4815ee91d3135"),
    )
}
DEFAULT_SUBSETS = ("train-clean-100", "dev-clean", "test-clean")

# https://www.openslr.org/11 publishes no checksums; these come from sdrobert/pytorch-database-prep
# librispeech.py (commit 330bc0b9), which checks its downloads with them. Sizes: kaldi-asr/kaldi
# egs/librispeech/s5/local/download_lm.sh; size of the text: tensorflow/datasets
# url_checksums/librispeech_lm.txt.
LANGUAGE_MODELS = {
    name: Published(f"11/{name}", size_bytes, md5)
    for name, size_bytes, md5 in (
        ("3-gram.arpa.gz", 759_636_181, "74cbb837e582378c26c602e1c8cbcb9c"),
        ("3-gram.pruned.1e-7.arpa.gz", 34_094_057, "9a0f1325bcaf3a0f7b7be4be10823c2a"),
        ("3-gram.pruned.3e-7.arpa.gz", 13_654_242, "8f67ec741827742eee05799ab7605b50"),
        ("4-gram.arpa.gz", 1_355_172_078, "6abdcd5b055bd482e4f9defe91d40408"),
        ("librispeech-lexicon.txt", 5_627_646, "28f72663f6bfed7cd346283c064c315b"),
        ("librispeech-vocab.txt", 1_737_588, "bf3cc7a50112831ed8b0afa40cae96a5"),
        ("librispeech-lm-norm.txt.gz", 1_507_274_412, "c83c64c726a1aedfe65f80aa311de402"),
    )
}

# Size of an unpacked archive relative to the archive: FLAC does not compress further, and small files
# leave a part of their last disk block unused.
UNPACKED_RATIO = 1.05


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        download(options.subsets, options.language_models, options.mirror, options.output)
        folder = options.folder or options.output / "LibriSpeech"
        found = {
            name: describe(folder / name, options.output / f"{name}.jsonl")
            for name in (*options.subsets, *options.train, *options.dev)
        }
        roles = {
            "train": options.train or [n for n in options.subsets if n.startswith("train-")],
            "dev": options.dev or [n for n in options.subsets if n == "dev-clean"],
        }
        for role, names in roles.items():
            if names:
                manifest = options.output / f"{role}.jsonl"
                write_manifest(manifest, [u for name in names for u in found[name]])
                say(f"{manifest}: {' + '.join(names)}")
    except AsrError as error:
        complain(f"prepare.py: {str(error).removesuffix('.')}.")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("interrupted; run the same command again to continue")
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fetched = parser.add_argument_group("download")
    fetched.add_argument(
        "--subsets",
        nargs="*",
        choices=SUBSETS,
        metavar="NAME",
        help=f"any of {', '.join(SUBSETS)} (without --folder: {' '.join(DEFAULT_SUBSETS)})",
    )
    fetched.add_argument(
        "--language-models",
        nargs="+",
        choices=LANGUAGE_MODELS,
        default=[],
        metavar="FILE",
        help=f"any of {', '.join(LANGUAGE_MODELS)}",
    )
    fetched.add_argument(
        "--mirror",
        type=address,
        default=SITE,
        metavar="URL",
        help="address of the folders 11 and 12 (%(default)s; openslr.org lists mirrors, such as "
        "https://openslr.elda.org/resources)",
    )
    existing = parser.add_argument_group("use an existing folder")
    existing.add_argument(
        "--folder", type=Path, help="folder that holds subset/speaker/chapter/*.trans.txt"
    )
    existing.add_argument(
        "--train", nargs="+", default=[], metavar="NAME", help="its subsets for training"
    )
    existing.add_argument(
        "--dev", nargs="+", default=[], metavar="NAME", help="its subsets for dev"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("data/librispeech"),
        help="folder of downloads and manifests (%(default)s)",
    )
    options = parser.parse_args(arguments)
    if bool(options.folder) != bool(options.train or options.dev):
        parser.error("--folder needs --train, --dev or both, and they need --folder")
    if options.folder and options.subsets:
        parser.error("--subsets (to download) and --folder (existing) exclude each other")
    if options.subsets is None:
        options.subsets = () if options.folder else DEFAULT_SUBSETS
    options.subsets = list(dict.fromkeys(options.subsets))
    return options


def address(text: str) -> str:
    """Parse the address of a mirror."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text.rstrip("/")


def download(
    subsets: Sequence[str], language_models: Sequence[str], mirror: str, output: Path
) -> None:
    """Download subsets to `output`/LibriSpeech and models to `output`/language-models."""
    corpus, models = output / "LibriSpeech", output / "language-models"
    # A subset's folder exists only if the subset is complete.
    absent = [name for name in subsets if not (corpus / name).exists()]
    archive = {name: output / "archives" / f"{name}.tar.gz" for name in absent}
    needed_bytes = [missing_bytes(archive[name], SUBSETS[name].size_bytes) for name in absent]
    needed_bytes += [int(UNPACKED_RATIO * SUBSETS[name].size_bytes) for name in absent]
    needed_bytes += [
        missing_bytes(models / name, LANGUAGE_MODELS[name].size_bytes) for name in language_models
    ]
    require_space(output, sum(needed_bytes))
    for name in absent:
        path, size_bytes, md5 = SUBSETS[name]
        fetch(f"{mirror}/{path}", archive[name], size_bytes, md5)
        unpack(archive[name], corpus / name)
    for name in language_models:
        path, size_bytes, md5 = LANGUAGE_MODELS[name]
        fetch(f"{mirror}/{path}", models / name, size_bytes, md5)
        say(f"{models / name}: checksum is correct")


def describe(folder: Path, manifest: Path) -> list[Utterance]:
    """Write the manifest of a subset's folder, and print its size and the rejected utterances."""
    utterances, rejects = read_librispeech(folder)
    if rejects:
        say(summarize_rejects(rejects))
    if not utterances:
        raise DataError(f"{folder} contains no usable utterance; see the reasons above")
    write_manifest(manifest, utterances)
    hours = sum(utterance.seconds for utterance in utterances) / 3600
    speakers = len({utterance.speaker for utterance in utterances})
    say(f"{manifest}: {len(utterances):,} utterances, {hours:.2f} hours, {speakers} speakers")
    return utterances


if __name__ == "__main__":
    sys.exit(main())
