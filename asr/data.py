"""Speech as training data: manifests, corpora, and batches in the order of a plan.

    corpus folder --read_*--> [Utterance] <--read_manifest/write_manifest--> JSONL
    load_batches(SpeechDataset, Planner, epochs) -> Batch, Batch, ...

What is in a batch is a pure function of its plan and of (seed, epoch, utterance): not of the number
of workers or processes, nor of where a run was interrupted.
"""

import copy
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr.audio import (
    change_speed,
    find_audio,
    inspect_audio,
    load_audio,
)
from asr.augment import Augmenter, Timing, random_generator
from asr.errors import AsrError, AudioError, DataError
from asr.features import LogMel
from asr.files import write_atomically
from asr.planning import Indices, Planner, hash_id, shard
from asr.text import Vocabulary, normalise

StrPath = str | os.PathLike[str]

STOPPING = [
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []),
]
"""What asks a training to stop; see `asr.config.asking_to_stop`."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recording of one speaker, `seconds` long, and what was said in it."""

    id: str
    audio: str  # path
    seconds: float
    text: str
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """An utterance that was left out: its id, a reason that others share, and its own details."""

    id: str
    reason: str
    detail: str = ""


def summarise_rejects(rejects: Iterable[Reject]) -> str:
    """A line for each reason, the commonest first: how many, and up to three of them by id."""
    groups: dict[str, list[Reject]] = {}
    for reject in rejects:
        groups.setdefault(reject.reason, []).append(reject)
    lines = []
    for reason, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        named = [f"{r.id} ({r.detail})" if r.detail else r.id for r in group[:3]]
        more = ", ..." if len(group) > 3 else ""
        lines.append(f"{len(group)} left out, {reason}: {', '.join(named)}{more}")
    return "\n".join(lines)


# Manifests


def read_manifest(path: StrPath) -> list[Utterance]:
    """The utterances of a JSONL manifest, in its order.

    Each line is an object with NeMo's keys `audio_filepath` (relative ones: to the manifest's
    folder), `duration` in seconds and `text`, and optionally `id` (else the file's name without its
    ending) and `speaker`; other keys are ignored. Recordings are not opened here.

    Raises DataError naming the line for anything that is not so, for an id that occurs twice, and
    for a manifest without an utterance.
    """
    path = Path(path)
    return list(parse_manifest(path, str(path.parent)))


def parse_manifest(
    path: Path,
    folder: str,
    suspects: Container[int] | None = None,
    hear: Callable[[bytes], object] = lambda _: None,
) -> Iterator[Utterance]:
    """What `read_manifest` reads, one by one, with recordings relative to `folder`.

    Where `suspects` are given, ids are compared only if `hash_id` of them is among these: to
    compare all of them takes as much memory as they do. `hear` is told each raw line.
    """
    lines: dict[str, int] = {}
    empty = True
    for number, line in read_lines(path, hear):
        if not line.strip():
            continue
        empty = False
        utterance = parse_utterance(line, f"{path}, line {number}", folder)
        if suspects is None or hash_id(utterance.id) in suspects:
            first = lines.setdefault(utterance.id, number)
            if first != number:
                raise DataError(
                    f"{path}, line {number}: the id {utterance.id!r} is already that of line "
                    f'{first}; give every utterance an "id" of its own.'
                )
        yield utterance
    if empty:
        raise DataError(f"{path} holds no utterance; write one JSON object a line into it.")


def write_manifest(path: StrPath, utterances: Iterable[Utterance]) -> None:
    """Write what `read_manifest` reads: wholly or, where anything fails, not at all.

    Recordings inside the manifest's folder are named relative to it, so the two move together;
    others by their absolute path. Raises FileError where the file cannot be written, DataError for
    a name that is not valid Unicode.
    """
    write_records(
        path,
        (
            {
                "id": utterance.id,
                "audio_filepath": utterance.audio,
                "duration": utterance.seconds,
                "text": utterance.text,
                "speaker": utterance.speaker,
            }
            for utterance in utterances
        ),
    )


def write_records(path: StrPath, records: Iterable[dict[str, Any]]) -> None:
    """`write_manifest` of a manifest's objects, with whatever keys they have."""
    path = Path(path)
    inside = os.path.join(_make_absolute(path.parent), "")

    def write(file: IO[bytes]) -> None:
        for record in records:
            audio = _make_absolute(record["audio_filepath"]).removeprefix(inside)
            line = json.dumps(record | {"audio_filepath": audio}, ensure_ascii=False)
            file.write((line + "\n").encode())

    try:
        write_atomically(path, write)
    except UnicodeEncodeError as error:
        raise DataError(
            f"The manifest {path} cannot be written: a name in it, {error.object[:80]!a}, is "
            "not valid Unicode; rename the file."
        ) from error


def _make_absolute(path: StrPath) -> str:
    """The path from the root on; links are followed where they lie before `..`, which abspath drops."""
    if ".." not in Path(path).parts:
        return os.path.abspath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def parse_utterance(line: str, where: str, folder: str) -> Utterance:
    """The utterance of a manifest's line; DataError, beginning with `where`, for a line without."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where} is not JSON ({problem}); mend or remove it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object; write one as {{...}} on each line.")
    audio = _field(record, "audio_filepath", str, "a string", where)
    name = _field(record, "id", str, "a string", where) if "id" in record else ""
    name = name or os.path.splitext(os.path.basename(audio))[0]
    where = f"{where} (utterance {name!r})"
    if not audio or not name:
        raise DataError(f'{where}: "audio_filepath" is {audio!r}; name a recording.')
    seconds = _field(record, "duration", (int, float), "a number", where)
    if not 0 < seconds < 1e9:  # false for NaN too
        raise DataError(f'{where}: "duration" is {seconds}; it must be the seconds, above 0.')
    text = _field(record, "text", str, "a string", where)
    if not text.strip():
        raise DataError(f'{where}: "text" is empty; give it words or remove the line.')
    if record.get("offset"):
        raise DataError(
            f'{where}: "offset" is {record["offset"]!r}, but only whole recordings can be read; '
            "cut the recording into one file an utterance."
        )
    speaker = record.get("speaker", "")
    if not isinstance(speaker, str | int):
        raise DataError(f'{where}: "speaker" is {speaker!r}; it must be a string.')
    return Utterance(name, os.path.join(folder, audio), float(seconds), text, str(speaker))


def _field(
    record: dict[str, Any], key: str, kind: type | tuple[type, ...], noun: str, where: str
) -> Any:
    if key not in record:
        raise DataError(f'{where} has no "{key}"; every utterance needs it.')
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f'{where}: "{key}" is {value!r}; it must be {noun}.')
    return value


def read_lines(
    path: Path, hear: Callable[[bytes], object] = lambda _: None, errors: str = "strict"
) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file (with or without a byte order mark), counted from 1.

    `hear` is told each as it stands in the file. Raises DataError for what is no such file, unless
    `errors` says what else becomes of bytes that are not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                hear(line)
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {number} is not UTF-8 text; convert the file to UTF-8."
                    ) from error
                yield number, text.rstrip("\r\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


# Corpora: a reader gives (utterances, rejects), and all that it finds is in one of the two


def read_librispeech(
    folder: StrPath, profile: str = "plain"
) -> tuple[list[Utterance], list[Reject]]:
    """LibriSpeech's layout at any depth below `folder`, with audio in any format.

    speaker/chapter/speaker-chapter.trans.txt holds lines `speaker-chapter-number TEXT`; the
    recordings lie beside it. `profile` is how the text is normalised.

    Raises DataError where there is no such transcript, or no folder.
    """
    folder = _require_folder(folder)
    transcripts = [
        (str(path.parent / line.partition(" ")[0]), line.partition(" ")[2])
        for path in _find_texts(folder, "*.trans.txt")
        for _, line in read_lines(path)
        if line.strip()
    ]
    if not transcripts:
        raise DataError(
            f"No transcript *.trans.txt lies below {folder}; give a folder of LibriSpeech, such as "
            "LibriSpeech/dev-clean."
        )

    def identify(stem: str) -> tuple[str, str]:
        name = os.path.basename(stem)
        return name, name.partition("-")[0]

    return _assemble(_pair(folder, transcripts, identify), profile)


def read_common_voice(
    tsv: StrPath, profile: str = "english"
) -> tuple[list[Utterance], list[Reject]]:
    """A table of Common Voice (train.tsv, dev.tsv, ...) with the folder `clips` beside it.

    The columns `path` and `sentence` are needed; `client_id` is the speaker.

    Raises DataError where the table, those columns or the folder are missing.
    """
    tsv = Path(tsv)
    clips = tsv.parent / "clips"
    rows = read_lines(tsv)
    # Not the csv module: the quotation marks of these sentences are not escaped.
    header = next(rows, (1, ""))[1].split("\t")
    if not {"path", "sentence"} <= set(header):
        raise DataError(
            f"{tsv} does not begin with the names of the columns path and sentence; give a table "
            "of Common Voice, such as train.tsv."
        )
    _require_folder(clips)
    candidates: list[_Candidate | Reject] = []
    for number, line in rows:
        row = dict(zip(header, line.split("\t"), strict=False))
        if not row.get("path") or "sentence" not in row:
            candidates.append(Reject(f"line {number}", "columns missing"))
            continue
        name = os.path.splitext(row["path"])[0]
        audio = os.path.join(clips, row["path"])
        candidates.append(_Candidate(name, audio, row["sentence"], row.get("client_id", "")))
    return _assemble(candidates, profile)


def read_kaldi(folder: StrPath, profile: str = "plain") -> tuple[list[Utterance], list[Reject]]:
    """A Kaldi data folder: wav.scp, text and, where speakers are known, utt2spk.

    Relative paths in wav.scp start from the folder. Commands in it (`sph2pipe ... |`) are not run:
    those utterances are rejects.

    Raises DataError where a file is missing or lists an id twice, and where there are `segments`.
    """
    folder = _require_folder(folder)
    if (folder / "segments").exists():
        raise DataError(
            f"{folder / 'segments'} cuts utterances out of longer recordings, which is not "
            "supported; cut them into one file each (Kaldi's extract-segments) and list those."
        )
    recordings = _read_table(folder / "wav.scp")
    texts = _read_table(folder / "text")
    speakers = _read_table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    candidates: list[_Candidate | Reject] = []
    for name in recordings | texts:
        audio = recordings.get(name, "")
        if audio.endswith("|"):
            candidates.append(Reject(name, "audio is a command", audio))
            continue
        audio = os.path.join(folder, audio) if audio else ""
        candidates.append(_Candidate(name, audio, texts.get(name), speakers.get(name, "")))
    return _assemble(candidates, profile)


def read_folder(folder: StrPath, profile: str = "plain") -> tuple[list[Utterance], list[Reject]]:
    """Recordings x.wav (or another format) at any depth, each with its transcript x.txt beside it.

    An utterance's id is its path below the folder, without the ending, and its speaker the first
    folder in that, where there is one.

    Raises DataError where there is neither a recording nor a transcript, or no folder.
    """
    folder = _require_folder(folder)
    transcripts = [
        (str(path.with_suffix("")), "\n".join(line for _, line in read_lines(path)))
        for path in _find_texts(folder, "*.txt")
    ]

    def identify(stem: str) -> tuple[str, str]:
        name = Path(stem).relative_to(folder)
        return name.as_posix(), name.parts[0] if len(name.parts) > 1 else ""

    candidates = _pair(folder, transcripts, identify)
    if not candidates:
        raise DataError(f"{folder} holds no recording; put x.wav and its words in x.txt there.")
    return _assemble(candidates, profile)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What a corpus says of an utterance, before anything is checked."""

    id: str
    audio: str  # path; empty where the corpus has none
    text: str | None  # as the corpus spells it; None where it has none
    speaker: str


def _require_folder(folder: StrPath) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that holds the corpus.")
    return folder


def _find_texts(folder: Path, pattern: str) -> list[Path]:
    """Text files at any depth, without hidden ones: macOS's `._x.txt` is no text."""
    return sorted(path for path in folder.rglob(pattern) if not path.name.startswith("."))


def _read_table(path: Path) -> dict[str, str]:
    """A Kaldi table: lines of a key, white space and a value, which may be empty."""
    table: dict[str, str] = {}
    for number, line in read_lines(path):
        key, *value = line.split(maxsplit=1) or [""]
        if key in table:
            raise DataError(f"{path}, line {number}: {key!r} is listed twice; remove one of them.")
        if key:
            table[key] = value[0].rstrip() if value else ""
    return table


def _pair(
    folder: Path,
    transcripts: Sequence[tuple[str, str]],
    identify: Callable[[str], tuple[str, str]],
) -> list[_Candidate | Reject]:
    """Every transcript (path without ending, text) and every recording below the folder, by path.

    `identify` gives the (id, speaker) of a path without ending.
    """
    recordings: dict[str, list[str]] = {}
    for path in find_audio(folder):
        recordings.setdefault(os.path.splitext(path)[0], []).append(str(path))
    silent = sorted(recordings.keys() - {stem for stem, _ in transcripts})
    candidates: list[_Candidate | Reject] = []
    for stem, text in [*transcripts, *((stem, None) for stem in silent)]:
        name, speaker = identify(stem)
        audio = recordings.get(stem, [""])
        if len(audio) > 1:
            files = ", ".join(map(os.path.basename, audio))
            candidates.append(Reject(name, "several recordings", files))
        else:
            candidates.append(_Candidate(name, audio[0], text, speaker))
    return candidates


def _assemble(
    candidates: Iterable[_Candidate | Reject], profile: str
) -> tuple[list[Utterance], list[Reject]]:
    """Candidates with normalised text and a recording that says how long it is; and the others."""
    rejects: list[Reject] = []
    usable: list[tuple[_Candidate, str]] = []
    seen: set[str] = set()
    for candidate in candidates:
        if isinstance(candidate, Reject):
            rejects.append(candidate)
        elif candidate.id in seen:
            rejects.append(Reject(candidate.id, "id occurs twice"))
        elif candidate.text is None:
            rejects.append(Reject(candidate.id, "transcript missing"))
        elif not Path(candidate.audio).is_file():
            rejects.append(Reject(candidate.id, "audio missing", candidate.audio))
        elif text := normalise(candidate.text, profile):
            usable.append((candidate, text))
        else:
            rejects.append(Reject(candidate.id, "empty text"))
        if isinstance(candidate, _Candidate):
            seen.add(candidate.id)
    utterances: list[Utterance] = []
    with ThreadPoolExecutor() as pool:
        lengths = pool.map(_measure_seconds, [candidate.audio for candidate, _ in usable])
        for (candidate, text), seconds in zip(usable, lengths, strict=True):
            if isinstance(seconds, AudioError):
                rejects.append(Reject(candidate.id, "audio unreadable", str(seconds)))
            else:
                utterances.append(
                    Utterance(candidate.id, candidate.audio, seconds, text, candidate.speaker)
                )
    return utterances, rejects


def _measure_seconds(audio: str) -> float | AudioError:
    try:
        return inspect_audio(audio).seconds
    except AudioError as error:
        return error


# Batches


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance as the network sees it: features (T, F) float32, target (U,) int64.

    `second` are the same features under other masks, where training compares the two.
    """

    id: str
    text: str
    features: Tensor
    target: Tensor
    second: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances side by side, or one process's part of them, on the CPU.

    `symbols` counts the target symbols of the whole global batch, on every process alike: a loss
    that is summed, divided by it and added up over processes does not depend on their number.
    """

    features: Tensor  # (B, T, F) float32, 0 where padded
    feature_lengths: Tensor  # (B,) int64
    targets: Tensor  # (B, U) int64, 0 where padded
    target_lengths: Tensor  # (B,) int64
    ids: list[str]
    texts: list[str]
    symbols: int
    epoch: int
    step: int
    second: Tensor | None = None  # (B, T, F): the examples' second features, if they have any


def collate(
    examples: Sequence[Example], mels: int, symbols: int, epoch: int = 0, step: int = 0
) -> Batch:
    """Examples of `mels` features each, padded into a Batch; it may have B = T = U = 0."""
    frames = [len(example.features) for example in examples]
    lengths = [len(example.target) for example in examples]
    features = torch.zeros(len(examples), max(frames, default=0), mels)  # (B, T, F)
    second = torch.zeros_like(features) if any(e.second is not None for e in examples) else None
    targets = torch.zeros(len(examples), max(lengths, default=0), dtype=torch.int64)  # (B, U)
    for i, example in enumerate(examples):
        features[i, : frames[i]] = example.features
        if second is not None and example.second is not None:
            second[i, : frames[i]] = example.second
        targets[i, : lengths[i]] = example.target
    return Batch(
        features,
        torch.tensor(frames, dtype=torch.int64),
        targets,
        torch.tensor(lengths, dtype=torch.int64),
        [example.id for example in examples],
        [example.text for example in examples],
        symbols,
        epoch,
        step,
        second,
    )


class SpeechDataset:
    """Utterances with texts of a vocabulary, and how a recording becomes features.

    `target_lengths` counts the symbols of each text, so that nobody has to read it to know.

    `dataset[epoch, index, timing]` is the Example of an utterance in an epoch, its time changed as
    `timing` says: the same whenever and wherever it is asked for. `log_mel` is copied as it is now,
    to the CPU; without an augmenter there is no other damage. `twice`: Examples have second features.

    Reading raises AudioError, also where a recording is shorter than its utterance says, and
    TextError for a text that the vocabulary cannot spell.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        target_lengths: npt.ArrayLike,
        vocabulary: Vocabulary,
        log_mel: LogMel,
        augmenter: Augmenter | None = None,
        seed: int = 0,
        twice: bool = False,
    ) -> None:
        self.utterances = utterances
        self.target_lengths: Indices = np.asarray(target_lengths, dtype=np.int64)
        self.reader = _Reader(vocabulary, copy.deepcopy(log_mel).cpu(), augmenter, seed, twice)
        if len(self.target_lengths) != len(utterances):
            raise ValueError(
                f"{len(self.target_lengths)} target lengths for {len(utterances)} utterances"
            )

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, key: tuple[int, int, Timing]) -> Example:
        epoch, index, timing = key
        return self.reader.read(self.utterances[index], epoch, timing)


@dataclass(frozen=True, slots=True)
class _Request:
    """All that a worker must know to make a batch."""

    utterances: list[Utterance]
    timings: list[Timing]
    symbols: int
    epoch: int
    step: int


class _Reader(Dataset[Batch | AsrError]):
    """The part of a SpeechDataset that workers hold.

    Requests bring the utterances, so that a worker is small and starts fast, whatever the corpus.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        log_mel: LogMel,
        augmenter: Augmenter | None,
        seed: int,
        twice: bool,
    ) -> None:
        self.vocabulary = vocabulary
        self.log_mel = log_mel
        self.augmenter = augmenter
        self.seed = seed
        self.twice = twice

    def __getitem__(self, request: _Request) -> Batch | AsrError:
        """A batch, or what is wrong: raised in a worker, it would come back inside a traceback."""
        try:
            examples = [
                self.read(utterance, request.epoch, timing)
                for utterance, timing in zip(request.utterances, request.timings, strict=True)
            ]
        except AsrError as error:
            return error
        mels = self.log_mel.config.mels
        return collate(examples, mels, request.symbols, request.epoch, request.step)

    def read(self, utterance: Utterance, epoch: int, timing: Timing) -> Example:
        target = torch.tensor(self.vocabulary.encode(utterance.text, utterance.id))  # (U,)
        rate = self.log_mel.config.sample_rate
        waveform = load_audio(utterance.audio, rate, expected_seconds=utterance.seconds)  # (N,)
        if timing.speed != 1.0:
            waveform = change_speed(waveform, timing.speed)
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "waveform")
            waveform = self.augmenter.damage_waveform(waveform, generator, timing)
        # One thread, as in workers: with more, sums may be rounded in another order.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            features = self.log_mel(torch.from_numpy(waveform))  # (T, F)
        finally:
            torch.set_num_threads(threads)
        second = features if self.twice else None
        if self.augmenter:
            generator = random_generator(self.seed, epoch, utterance.id, "features")
            found = features.numpy()
            if self.twice:
                views = self.augmenter.damage_features_twice(found, generator, timing)
                features, second = map(torch.from_numpy, views)
            else:
                found = self.augmenter.damage_features(found, generator, timing)
                features = torch.from_numpy(found)
        return Example(utterance.id, utterance.text, features, target, second)


def load_batches(
    dataset: SpeechDataset,
    planner: Planner,
    epochs: Iterable[int],
    first_step: int = 0,
    *,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Generator[Batch]:
    """The batches of `epochs`, one after the other, from `first_step` of the first epoch on.

    Each is this process's part of the global batch that `planner` plans for all `processes`. With
    `workers` processes of their own (0: none) they are the same batches, bit for bit, and made
    ahead: also across the end of an epoch, so take all epochs from one call. They then lie in shared
    memory, each with open files, so let go of each when it is done. Closing the iterator ends the
    workers. Torch's global random state is not touched.

    Raises what reading raises, and DataError where a worker is killed.
    """
    loader = DataLoader(
        dataset.reader,
        batch_size=None,  # a request is a whole batch already
        sampler=_plan_requests(dataset, planner, epochs, first_step, rank, processes),
        num_workers=workers,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # else a seed is drawn from the global one
    )
    try:
        for batch in _start(loader):
            if isinstance(batch, AsrError):
                raise batch
            yield batch
    except (OSError, EOFError, RuntimeError) as error:
        # What a worker raises begins "Caught"; the rest is torch, or the socket over which a batch
        # should have come, noticing that the worker is no more.
        if not workers or str(error).startswith("Caught"):
            raise
        raise DataError(
            f"A process that reads recordings was lost ({str(error).partition('. ')[0]}), most "
            "likely killed for want of memory, in a container of shared memory; use fewer workers "
            "or smaller batches."
        ) from error


def _plan_requests(
    dataset: SpeechDataset,
    planner: Planner,
    epochs: Iterable[int],
    first_step: int,
    rank: int,
    processes: int,
) -> Iterator[_Request]:
    for epoch in epochs:
        plan = planner.epoch(epoch)
        for step in range(first_step, len(plan)):
            batch = plan.batches[step]
            part = shard(batch, rank, processes)
            yield _Request(
                [dataset.utterances[index] for index in part],
                [plan.timing(index) for index in part],
                int(dataset.target_lengths[batch].sum()),
                epoch,
                step,
            )
        first_step = 0


def _worker_context() -> Any:
    """How workers start: forked from a small process of their own that has imported this module.

    Forking the trainer itself would copy a process full of threads and CUDA state, whose locks may
    never open again; spawning would import torch once a worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _start(loader: DataLoader[Batch | AsrError]) -> Iterator[Batch | AsrError]:
    """The loader's iterator, whose processes never hear what asks to stop: the trainer answers.

    Ctrl-C, `timeout`, systemd and Slurm tell all processes. Ignoring them in `_start_worker` alone
    would come too late for one that is still importing.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    resource_tracker.ensure_running()  # its start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    torch.set_flush_denormal(True)  # as the trainer does: the number of workers changes no bit
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """Torch's own watch sees the fork server, which lives on while its workers do."""
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
