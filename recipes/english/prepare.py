"""Prepare English from up to three corpora, and the language models that go with it.

    python recipes/english/prepare.py \\
        --librispeech LibriSpeech --train train-clean-100 --dev dev-clean \\
        --common-voice cv-corpus/en --speechocean speechocean762 \\
        --text books.txt.gz --noise noises --rir rooms

Each corpus adds its training set to train.jsonl and its dev set to dev.jsonl; its dev set also gets
a manifest of its own. --text adds language-model-small.lm and language-model.lm, estimated on those
sentences and the training prompts, without any sentence of a dev set. --synthetic lets the voices of
--engine speak some of the sentences; mixed.jsonl holds them and train.jsonl. --labels adds recordings
without transcripts, with texts by another recognizer, in labeled.jsonl, which holds train.jsonl too.
--balance repeats the utterances of some corpora, and drops some of others, in balanced.jsonl.
"""

import argparse
import gzip
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import soundfile
from labels import read_labeled
from synthesize import synthesize

from asr.audio.waveform import find_audio
from asr.cli.lm import train as train_language_model
from asr.data.augment import align_response
from asr.data.corpora import read_common_voice, read_kaldi, read_librispeech
from asr.data.manifest import Reject, Utterance, summarize_rejects, write_manifest
from asr.data.voices import ENGINES
from asr.errors import EXIT_CODE, INTERRUPTED, AsrError, AudioError, DataError, FileError
from asr.files import write_atomically
from asr.lm.estimation import EstimationConfig, read_sentences
from asr.lm.model import LanguageModel
from asr.progress import Bar, complain, say, track
from asr.text import Vocabulary

LATE_SECONDS = 0.4  # after the direct sound
LARGEST_LATE_SHARE = 0.1  # of the energy after LATE_SECONDS; ordinary rooms have less


class Estimate(NamedTuple):
    """How a language model is estimated."""

    config: EstimationConfig
    quantize: bool


# Chosen on 14.8 million words of books (README.md): the small one and a network fit into a released
# model of 25 MB, the other is for users who have the space.
LANGUAGE_MODELS = {
    "language-model-small.lm": Estimate(EstimationConfig(3, [0, 2, 4], 64_000), True),
    "language-model.lm": Estimate(EstimationConfig(4, [0, 0, 1]), False),
}
CORPORA = ("librispeech", "common-voice", "speechocean")
MOST_TIMES = 100  # limit of the repetitions of an utterance
MANY_SENTENCES = 10_000  # sentences between two updates of the progress bar

Corpora = dict[str, dict[str, list[Utterance]]]
"""Utterances by corpus and role (train, dev)."""


class Source(NamedTuple):
    """A part of a corpus and how to read it."""

    corpus: str
    role: str  # train | dev
    folder: Path
    read: Callable[[], tuple[list[Utterance], list[Reject]]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    output: Path = options.output
    try:
        corpora = gather(sources(options))
        write_manifests(corpora, output)
        if options.labels:
            labeled = list(read_labeled(options.labels, options.clips, select(corpora, "dev")))
            write_manifest(output / "labeled.jsonl", select(corpora, "train") + labeled)
        if options.balance:
            balanced = list(balance(corpora, dict(options.balance)))
            write_manifest(output / "balanced.jsonl", balanced)
        say("")
        for line in summarize(corpora):
            say(line)
        for name, folder, keep in (
            ("noise", options.noise, None),
            ("rir", options.rir, is_room),
        ):
            if folder:
                copy_recordings(folder, output / name, keep)
        if options.text:
            sentences = output / "sentences.txt.gz"
            write_sentences(
                sentences, options.text, select(corpora, "train"), select(corpora, "dev")
            )
            if options.synthetic:
                say("")
                spoken = synthesize(
                    sentences, options.synthetic, output, options.processes, options.engine
                )
                write_manifest(output / "mixed.jsonl", select(corpora, "train") + spoken)
            make_language_models(sentences, corpora, output)
    except AsrError as error:
        complain(f"prepare.py: {error}")
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("Interrupted; run the same command again.")
        return INTERRUPTED
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_corpora(parser)
    add_other_sources(parser)
    parser.add_argument(
        "--processes", type=int, default=2, help="processes of --synthetic (%(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("data/english"),
        metavar="FOLDER",
        help="where everything is written (%(default)s)",
    )
    options = parser.parse_args(arguments)
    if not (options.librispeech or options.common_voice or options.speechocean):
        parser.error("give at least one of --librispeech, --common-voice and --speechocean")
    if len({bool(given) for given in (options.librispeech, options.train, options.dev)}) > 1:
        parser.error("--librispeech, --train and --dev go together")
    for corpus, _ in options.balance:
        if not getattr(options, corpus.replace("-", "_")):
            parser.error(f"--balance names {corpus}, but --{corpus} is not given")
    if bool(options.labels) != bool(options.clips):
        parser.error("--labels and --clips go together")
    if options.synthetic < 0 or options.processes < 1:
        parser.error("--synthetic must not be negative, and --processes at least 1")
    if options.synthetic and not options.text:
        parser.error("--synthetic needs the sentences of --text")
    return options


def add_corpora(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the corpora."""
    corpora = parser.add_argument_group("corpora, at least one")
    corpora.add_argument(
        "--librispeech", type=Path, metavar="FOLDER", help="folder of subset/speaker/chapter"
    )
    corpora.add_argument(
        "--train", nargs="+", default=[], metavar="NAME", help="its training subsets"
    )
    corpora.add_argument("--dev", nargs="+", default=[], metavar="NAME", help="its dev subsets")
    corpora.add_argument(
        "--common-voice", type=Path, metavar="FOLDER", help="folder of train.tsv, dev.tsv and clips"
    )
    corpora.add_argument(
        "--speechocean",
        type=Path,
        metavar="FOLDER",
        help="folder of the Kaldi folders train and dev",
    )
    corpora.add_argument(
        "--balance",
        nargs="+",
        default=[],
        type=proportion,
        metavar="CORPUS=X",
        help="how often balanced.jsonl holds each training utterance of librispeech, common-voice, "
        "speechocean; 0.5: every other one (default: once)",
    )


def add_other_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name texts, noise and rooms."""
    beside = parser.add_argument_group("texts, noise and rooms")
    beside.add_argument(
        "--text",
        nargs="+",
        default=[],
        metavar="FILE",
        help="normalized sentences, one per line, plain or .gz: estimate the language models",
    )
    beside.add_argument(
        "--synthetic",
        type=int,
        default=0,
        metavar="N",
        help="speak N of the sentences of --text and add them to the training set in mixed.jsonl",
    )
    beside.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        default="espeak-ng",
        help="whose voices speak the sentences of --synthetic (%(default)s)",
    )
    beside.add_argument(
        "--labels",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="tables of labels that another recognizer gave to recordings without transcripts, see "
        "labels.py",
    )
    beside.add_argument("--clips", type=Path, metavar="FOLDER", help="the recordings of --labels")
    beside.add_argument("--noise", type=Path, metavar="FOLDER", help="recordings of noise to copy")
    beside.add_argument(
        "--rir",
        type=Path,
        metavar="FOLDER",
        help="impulse responses of rooms to copy, except those with more than "
        f"{LARGEST_LATE_SHARE:.0%} of their energy after {LATE_SECONDS} s".replace("%", " %%"),
    )


def proportion(text: str) -> tuple[str, float]:
    """Parse CORPUS=X, for argparse."""
    corpus, _, number = text.partition("=")
    try:
        times = float(number)
    except ValueError:
        times = math.nan
    if corpus not in CORPORA or not 0 <= times <= MOST_TIMES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(CORPORA)} with a number from 0 to {MOST_TIMES}; give for "
            "example common-voice=2"
        )
    return corpus, times


def sources(options: argparse.Namespace) -> list[Source]:
    """The parts of corpora that the options name, in the order of the manifests."""
    found = []
    if options.librispeech:
        for role in ("train", "dev"):
            for name in dict.fromkeys(getattr(options, role)):
                folder = options.librispeech / name
                read = partial(read_librispeech, folder)
                found.append(Source("librispeech", role, folder, read))
    for role in ("train", "dev"):
        if options.common_voice:
            table = options.common_voice / f"{role}.tsv"
            read = partial(read_common_voice, table)
            found.append(Source("common-voice", role, table, read))
        if options.speechocean:
            folder = options.speechocean / role
            found.append(Source("speechocean", role, folder, partial(read_kaldi, folder)))
    return found


def gather(sources: Sequence[Source]) -> Corpora:
    """Read all utterances, with unique ids, and print what was left out.

    Raises DataError for a set without utterances, an id that a corpus has twice, or a speaker in
    both train and dev, because the error rate on dev would then not be that of new voices.
    """
    corpora: Corpora = {}
    for source in track(sources, "reading", unit="sets"):
        utterances, rejects = source.read()
        if rejects:
            say(f"{source.folder}:\n{summarize_rejects(rejects)}")
        if not utterances:
            raise DataError(
                f"{source.folder} holds no utterance that can be used; see the reasons above"
            )
        roles = corpora.setdefault(source.corpus, {"train": [], "dev": []})
        roles[source.role] += utterances
    for corpus, roles in corpora.items():
        check(corpus, roles)
    return with_unique_ids(corpora)


def check(corpus: str, roles: Mapping[str, Sequence[Utterance]]) -> None:
    """Raise DataError for an id that occurs twice, or a speaker in both roles."""
    ids = Counter(utterance.id for utterances in roles.values() for utterance in utterances)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise DataError(
            f"{corpus} holds the id {twice[0]!r} twice; name subsets that share no utterance"
        )
    both = speakers(roles["train"]) & speakers(roles["dev"])
    if both:
        named = ", ".join(sorted(both)[:3]) + (", ..." if len(both) > 3 else "")
        raise DataError(
            f"{corpus}: {len(both)} of the speakers are in train and in dev ({named}); move each to "
            "one of the two, because otherwise the error rate on dev is too low"
        )


def speakers(utterances: Iterable[Utterance]) -> set[str]:
    """The speakers that are known."""
    return {utterance.speaker for utterance in utterances} - {""}


def with_unique_ids(corpora: Corpora) -> Corpora:
    """Prefix every id that several corpora use with the corpus's name."""
    ids = Counter(
        name
        for roles in corpora.values()
        for name in {utterance.id for part in roles.values() for utterance in part}
    )

    def rename(corpus: str, utterance: Utterance) -> Utterance:
        shared = ids[utterance.id] > 1
        return replace(utterance, id=f"{corpus}-{utterance.id}") if shared else utterance

    return {
        corpus: {role: [rename(corpus, u) for u in part] for role, part in roles.items()}
        for corpus, roles in corpora.items()
    }


def select(corpora: Corpora, role: str) -> list[Utterance]:
    """The utterances of all corpora in one role."""
    return [utterance for roles in corpora.values() for utterance in roles[role]]


def balance(corpora: Corpora, proportions: Mapping[str, float]) -> Iterator[Utterance]:
    """Repeat each corpus's training utterances in proportion; repeats are numbered #0, #1, ...

    Augmentation depends on the id, so every repeat is augmented differently.
    """
    for corpus, roles in corpora.items():
        times = proportions.get(corpus, 1.0)
        for number, utterance in enumerate(roles["train"]):
            for repeat in range(math.floor((number + 1) * times) - math.floor(number * times)):
                yield replace(utterance, id=f"{utterance.id}#{repeat}")


def write_manifests(corpora: Corpora, output: Path) -> None:
    """Write train.jsonl, dev.jsonl and a manifest of each corpus's dev set."""
    write_manifest(output / "train.jsonl", select(corpora, "train"))
    write_manifest(output / "dev.jsonl", select(corpora, "dev"))
    for corpus, roles in corpora.items():
        write_manifest(output / f"dev-{corpus}.jsonl", roles["dev"])
    for stale in output.glob("dev-*.jsonl"):  # from an earlier call with other corpora
        if stale.stem.removeprefix("dev-") not in corpora:
            stale.unlink()


def summarize(corpora: Corpora) -> Iterator[str]:
    """Yield a table of the sets, with how many dev sentences are training prompts too."""
    yield f"{'corpus':<14}{'set':<7}{'utterances':>10}{'hours':>8}{'speakers':>10}{'shared':>8}"
    prompts = {utterance.text for utterance in select(corpora, "train")}
    everything = {"all": {role: select(corpora, role) for role in ("train", "dev")}}
    for corpus, roles in (corpora | everything if len(corpora) > 1 else corpora).items():
        for role, part in roles.items():
            hours = sum(utterance.seconds for utterance in part) / 3600
            known = [speakers(c[role]) for c in corpora.values()]
            voices = sum(map(len, known)) if corpus == "all" else len(speakers(part))
            shared = f"{sum(u.text in prompts for u in part):,}" if role == "dev" else ""
            yield f"{corpus:<14}{role:<7}{len(part):>10,}{hours:>8.2f}{voices:>10,}{shared:>8}"
    yield "shared: utterances of dev whose sentence is a training prompt too"


# Noise and rooms


def copy_recordings(source: Path, folder: Path, keep: Callable[[Path], bool] | None) -> None:
    """Replace the content of `folder` by the recordings below `source` that `keep` accepts.

    Raises DataError if there are none, and FileError if the disk refuses.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder; give the one that holds the recordings")
    if source.absolute() == folder.absolute():
        raise DataError(f"{source} is where the recordings are copied to; name another folder")
    found = find_audio(source)
    kept = [path for path in found if keep is None or keep(path)]
    if not kept:
        raise DataError(f"{source} contains no recording that can be used; choose another folder")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        if unfinished.exists():  # an earlier run was killed here
            shutil.rmtree(unfinished)
        for path in track(kept, f"copying {folder.name}", unit="recordings"):
            copy = unfinished / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)  # without its permissions, which may forbid replacing it
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    except OSError as error:
        raise FileError(
            f"{folder} cannot be written ({error.strerror}); free some space or name another --output"
        ) from error
    left = [path.name for path in found if path not in kept]
    more = f", {len(left)} left out, not ordinary rooms: {', '.join(left)}" if left else ""
    say(f"{folder}: {len(kept)} recordings{more}")


def is_room(path: Path) -> bool:
    """Return whether an impulse response decays as in an ordinary room.

    Echo chambers and spatial effects blur speech until nobody could transcribe it. As in training
    (`asr.data.augment`), only the first channel counts, from the direct sound on. Raises AudioError.
    """
    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (N, channels)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} cannot be read as an impulse response ({error.error_string}); "
            "convert it to wav or flac, or remove it from the folder"
        ) from error
    if not channels[:, 0].any():
        raise AudioError(f"{path} is silent; remove it from the folder")
    response = align_response(channels[:, 0])  # with energy 1
    late = float(np.square(response[round(LATE_SECONDS * rate) :]).sum())
    return late <= LARGEST_LATE_SHARE


# Language models


def make_language_models(sentences: Path, corpora: Corpora, output: Path) -> None:
    """Estimate both models on the sentences, and print their perplexity on each dev set."""
    dev = {corpus: [u.text for u in roles["dev"]] for corpus, roles in corpora.items()}
    for name, (config, quantize) in LANGUAGE_MODELS.items():
        say("")
        facts = train_language_model([str(sentences)], config, output / name, quantize)
        for fact, value in facts.items():
            say(f"{fact:<12}{f'{value:,}' if isinstance(value, int) else value}")
    say("")
    say(f"{'language model':<26}{'dev set':<14}{'perplexity':>10}{'unknown words':>15}")
    for name in LANGUAGE_MODELS:
        model = LanguageModel.read(output / name)
        for corpus, transcripts in dev.items():
            measured = model.perplexity(transcripts)
            words = measured.words - measured.sentences
            unknown = f"{measured.unknown / words:.2%}".replace("%", " %")
            say(f"{name:<26}{corpus:<14}{measured.perplexity:>10.1f}{unknown:>15}")


def write_sentences(
    path: Path,
    texts: Sequence[str],
    training: Sequence[Utterance],
    dev: Sequence[Utterance],
) -> None:
    """Write the text for the language models: the texts and each prompt once, without dev sentences.

    Prompts with characters that the model cannot write, such as digits, are left out.
    """
    forbidden = {utterance.text for utterance in dev}
    alphabet = set(Vocabulary.english().symbols)
    given = read_sentences(texts)  # raises at once if a file does not exist
    prompts = [text for text in {u.text: None for u in training} if set(text) <= alphabet]
    dropped = {"the texts": 0, "the training prompts": 0}

    def write(file: IO[bytes]) -> None:
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=4, mtime=0) as packed,
            Bar("collecting the text", None, "sentences") as bar,
        ):
            number = 0
            for origin, lines in zip(dropped, (given, prompts), strict=True):
                for line in lines:
                    number += 1
                    if number % MANY_SENTENCES == 0:
                        bar.advance(MANY_SENTENCES)
                    sentence = " ".join(line.split())  # without the line feed
                    if sentence in forbidden:
                        dropped[origin] += 1
                    elif sentence:
                        packed.write(f"{sentence}\n".encode())
            bar.advance(number % MANY_SENTENCES)

    write_atomically(path, write)
    counts = " and ".join(f"{count:,} of {origin}" for origin, count in dropped.items())
    say(f"{path}: left out as sentences of a dev set: {counts}")


if __name__ == "__main__":
    sys.exit(main())
