"""Every door of asr, with its valid inputs, its damage and its entrance."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable, Iterable
from functools import cached_property
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from models import write_random_model

from asr.audio.waveform import inspect_audio, load_audio
from asr.checkpoint import Checkpoint
from asr.data.corpora import read_common_voice, read_folder, read_kaldi, read_librispeech
from asr.data.index import open_index
from asr.data.manifest import read_manifest
from asr.decoder.config import DecoderConfig
from asr.lm.model import LanguageModel
from asr.recognizer import Recognizer
from asr.release import CONFIGURATION, WEIGHTS, save_release
from fuzz import seeds
from fuzz.doors import Door, Files, attempt, command, only_file, random_name
from fuzz.mutations import damage_bytes, damage_plain, damage_text
from fuzz.settings import configuration_door, options_door

TEXT_ENDINGS = (".tsv", ".txt", ".TXT", ".jsonl", ".json", ".scp", ".md")
Damage = Callable[[bytes, Random, tuple[bytes, ...]], bytes]
CORPORA: dict[str, Callable[[Path], object]] = {
    "librispeech": read_librispeech,
    "common-voice": lambda folder: read_common_voice(folder / "train.tsv"),
    "kaldi": read_kaldi,
    "folder": lambda folder: read_folder(folder, "multilingual"),
}


class Bench:
    """What the doors share: a random model and a folder for the files that they need besides."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = write_random_model(folder / "tiny.pt")
        self.folder = folder

    @cached_property
    def recognizer(self) -> Recognizer:
        """The model, decoding greedily; loaded by each process for itself."""
        return Recognizer.load(self.checkpoint)

    def decode(self, **settings: str) -> object:
        """Transcribe with a beam search whose files are given."""
        recognizer = self.recognizer
        decoder = DecoderConfig("beam", beam=8, **settings)
        return Recognizer(recognizer.model, recognizer.vocabulary, decoder).transcribe(
            seeds.speech()
        )


def make_doors(folder: Path) -> dict[str, Door]:
    """All doors by name; `folder` takes the files that they share."""
    bench = Bench(folder)
    doors = [
        *_sound_doors(bench),
        *_text_doors(bench),
        *(_corpus_door(name, read) for name, read in CORPORA.items()),
        *_model_doors(bench),
        configuration_door(),
        options_door(bench.checkpoint),
    ]
    return {door.name: door for door in doors}


def _damage_one(damage: Damage, ending: str = "") -> Callable[[Files, Random, list[Files]], Files]:
    """Damage for inputs of a single file, which may get an odd name with this ending."""

    def change(files: Files, draw: Random, all_seeds: list[Files]) -> Files:
        [(name, content)] = files.items()
        others = tuple(next(iter(other.values())) for other in all_seeds)
        name = random_name(ending or Path(name).suffix, draw)
        return {name: damage(content, draw, others)}

    return change


def _damage_some(files: Files, draw: Random, all_seeds: list[Files]) -> Files:
    """Damage one or two files of an input, lose one, or give one the content of another."""
    files = dict(files)
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(sorted(files))
        kind = draw.random()
        if kind < 0.05 and len(files) > 1:
            del files[name]
        elif kind < 0.1:
            files[name] = files[draw.choice(sorted(files))]
        elif kind < 0.13:
            files[str(Path(name).with_name(random_name(Path(name).suffix, draw)))] = files.pop(name)
        else:
            damage = damage_text if _is_text(name, files[name]) else damage_bytes
            others = tuple(other[name] for other in all_seeds if name in other)
            files[name] = damage(files[name], draw, others)
    return files


def _is_text(name: str, content: bytes) -> bool:
    return name.endswith(TEXT_ENDINGS) or (b"\0" not in content and "." not in Path(name).name)


def _one_each(contents: Iterable[tuple[str, bytes]]) -> list[Files]:
    return [{name: content} for name, content in contents]


# Recordings


def _sound_doors(bench: Bench) -> list[Door]:
    def enter(folder: Path) -> object:
        path = only_file(folder)
        heard = attempt(lambda: bench.recognizer.transcribe(path))
        attempt(lambda: inspect_audio(path))
        attempt(lambda: load_audio(path))
        return heard

    def enter_commands(folder: Path) -> object:
        path = only_file(folder)
        code, _ = command("transcribe", path, "--checkpoint", bench.checkpoint, "--format", "json")
        command("info", path)
        command("stream", "-", "--checkpoint", bench.checkpoint, stdin=path.read_bytes())
        return None if code else True

    def sounds() -> list[Files]:
        return _one_each(seeds.sounds().items())

    def media() -> list[Files]:
        return _one_each(seeds.media().items())

    damage = _damage_one(damage_bytes)
    return [
        Door("audio", sounds, damage, enter),
        Door("media", media, damage, enter),
        Door(
            "audio-commands",
            lambda: [*sounds(), *media()],
            damage,
            enter_commands,
            share=0.5,
        ),
    ]


# Texts


def _text_doors(bench: Bench) -> list[Door]:
    def enter_manifest(folder: Path) -> object:
        path = folder / "train.jsonl"
        if not path.exists():
            return None
        read = attempt(lambda: read_manifest(path))
        attempt(lambda: [*open_index(path)])
        command("doctor", path, "--threads", 1, "--vocabulary", "transcripts")
        return read

    def enter_evaluation(folder: Path) -> object:
        code, _ = command("evaluate", folder / "train.jsonl", "--checkpoint", bench.checkpoint)
        return None if code else True

    def enter_score(folder: Path) -> object:
        code, _ = command("score", folder / "ref", folder / "hyp", "--json")
        forced = 0
        if code:
            forced, _ = command("score", folder / "ref", folder / "hyp", "--format", "lines")
        return None if forced else True

    def enter_text(folder: Path) -> object:
        path = only_file(folder)
        code, _ = command("lm", "train", path, "--order", 2, "-o", folder / "out.arpa")
        command("align", folder.parent / "missing.wav", path, "--checkpoint", bench.checkpoint)
        return None if code else True

    def corpus() -> list[Files]:
        names = [f"{number}.wav" for number in range(len(seeds.TEXTS))]
        sounds = dict.fromkeys(names, seeds.wav())
        return [{"train.jsonl": seeds.manifest(names)} | sounds]

    def texts() -> list[Files]:
        text = ("\n".join(seeds.TEXTS) + "\n").encode()
        return _one_each({"a.txt": text, "b.txt.gz": gzip.compress(text, mtime=0)}.items())

    def words(folder: Path) -> object:
        return attempt(lambda: bench.decode(hotwords=str(only_file(folder))))

    def lexicon(folder: Path) -> object:
        return attempt(lambda: bench.decode(lexicon=str(only_file(folder))))

    hotwords = b"# people\nold man\nrain\t4.5\nthe door\t-2\n\n"
    entries = b"the DH AH\nold OW L D\nman\nrain\nrains\n"
    return [
        Door("manifest", corpus, _damage_manifest, enter_manifest, share=0.5),
        Door("evaluation", corpus, _damage_manifest, enter_evaluation, share=0.3),
        Door("score", seeds.score_pairs, _damage_some, enter_score, share=0.5),
        Door("hotwords", lambda: [{"words.txt": hotwords}], _damage_one(damage_text), words),
        Door("lexicon", lambda: [{"words.txt": entries}], _damage_one(damage_text), lexicon),
        Door("text", texts, _damage_one(damage_text), enter_text),
    ]


def _damage_manifest(files: Files, draw: Random, all_seeds: list[Files]) -> Files:
    """Damage the text of a manifest or a value of one of its lines, rarely a recording."""
    if draw.random() < 0.1:
        return _damage_some(files, draw, all_seeds)
    manifest = files["train.jsonl"]
    if draw.random() < 0.5:
        return files | {"train.jsonl": damage_text(manifest, draw)}
    lines = [json.loads(line) for line in manifest.splitlines()]
    at = draw.randrange(len(lines))
    lines[at] = damage_plain(lines[at], draw)
    text = "".join(json.dumps(line, ensure_ascii=draw.random() < 0.5) + "\n" for line in lines)
    return files | {"train.jsonl": text.encode("utf-8", "surrogatepass")}


def _corpus_door(name: str, read: Callable[[Path], object]) -> Door:
    return Door(
        name,
        lambda: seeds.corpora()[name],
        _damage_some,
        lambda folder: attempt(lambda: read(folder)),
    )


# Models


def _model_doors(bench: Bench) -> list[Door]:
    def enter_language_model(folder: Path) -> object:
        path = only_file(folder)
        model = attempt(lambda: LanguageModel.read(path))
        if isinstance(model, LanguageModel):
            attempt(lambda: model.perplexity(["the old man a b", "", "a c <s> </s> b b"]))
            attempt(lambda: model.write_arpa(folder / "again.arpa"))
            attempt(lambda: bench.decode(language_model=str(path)))
        command("lm", "info", path)
        return model

    def enter_model(path: Path) -> object:
        recognizer = attempt(lambda: Recognizer.load(path))
        if isinstance(recognizer, Recognizer):
            attempt(lambda: recognizer.transcribe(seeds.speech()))
        command("info", path)
        return recognizer

    def enter_results(folder: Path) -> object:
        path = only_file(folder)
        words = ("release", bench.checkpoint, folder / "out", "--results", path, "--notes", path)
        code, _ = command(*words)
        return None if code else True

    def language_models() -> list[Files]:
        return _one_each(
            ("model.lm", seeds.write_language_model(bench.folder, quantize))
            for quantize in (False, True)
        )

    def results() -> list[Files]:
        rates = {"wer": 0.1, "low": 0.05, "high": 0.2, "words": 100}
        sets = {"dev": {"utterances": 10, "greedy": rates, "beam": rates}}
        confidence = {"words": 10, "calibration_error": 0.1, "auroc": 0.9}
        alarms = {"minutes": 5, "words_per_minute": {"noise": {"greedy": 0.1, "beam": 0.2}}}
        document = {"sets": sets, "confidence": confidence, "false_alarms": alarms}
        return [{"results.json": json.dumps(document).encode()}]

    arpa = seeds.arpa()
    packed = [("m.arpa", arpa), ("m.arpa", arpa.replace(b"\t", b" "))]
    packed += [("m.gz", gzip.compress(arpa, mtime=0)), ("m.bz2", bz2.compress(arpa))]
    packed += [("m.xz", lzma.compress(arpa))]
    return [
        Door("arpa", lambda: _one_each(packed), _damage_one(_damage_arpa), enter_language_model),
        Door("language-model", language_models, _damage_one(_damage_binary), enter_language_model),
        Door("release", lambda: [_release(bench)], _damage_release, enter_model),
        Door(
            "checkpoint",
            lambda: [{"model.pt": bench.checkpoint.read_bytes()}],
            _damage_one(_damage_checkpoint),
            lambda folder: enter_model(only_file(folder)),
        ),
        Door("results", results, _damage_one(_damage_json), enter_results),
    ]


def _damage_arpa(content: bytes, draw: Random, others: tuple[bytes, ...]) -> bytes:
    damage = damage_text if content.startswith(b"\\data") else damage_bytes
    return damage(content, draw, others)


def _damage_binary(content: bytes, draw: Random, others: tuple[bytes, ...]) -> bytes:
    """Damage a binary model; mostly its checksum is removed or right again."""
    damaged = damage_bytes(content, draw, others)
    kind = draw.random()
    if kind < 0.4:
        return seeds.fill_checksum(damaged)
    return damaged[:56] + bytes(8) + damaged[64:] if kind < 0.8 else damaged


def _damage_json(content: bytes, draw: Random, others: tuple[bytes, ...]) -> bytes:
    """Damage the text of a JSON document, or one of its values."""
    if draw.random() < 0.4:
        return damage_text(content, draw, others)
    return json.dumps(damage_plain(json.loads(content), draw)).encode()


def _damage_checkpoint(content: bytes, draw: Random, others: tuple[bytes, ...]) -> bytes:
    """Damage the bytes of a checkpoint, a part of its archive, or a value in it."""
    kind = draw.random()
    if kind < 0.3:
        return damage_bytes(content, draw, others)
    file = BytesIO()
    if kind < 0.5:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = draw.choice(sorted(parts))
        parts[name] = damage_bytes(parts[name], draw)
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in parts.items():
                archive.writestr(zipfile.ZipInfo(name), part)
        return file.getvalue()
    payload = torch.load(BytesIO(content), weights_only=True)
    torch.save(_damage_payload(payload, draw), file)
    return file.getvalue()


def _damage_payload(payload: dict[str, Any], draw: Random) -> Any:
    """Damage the plain data of a checkpoint, or one of its weights."""
    if draw.random() < 0.6:
        weights = payload.pop("weights")
        damaged = damage_plain(payload, draw)
        return damaged | {"weights": weights} if isinstance(damaged, dict) else damaged
    name = draw.choice(sorted(payload["weights"]))
    payload["weights"][name] = _damage_weight(payload["weights"][name], draw)
    return payload


def _damage_weight(weight: torch.Tensor, draw: Random) -> Any:
    number = draw.choice((float("nan"), float("inf"), 1e30, -1e38, 1e-40, 0.0))
    changes: list[Callable[[], Any]] = [
        lambda: weight * number,
        lambda: torch.full(weight.shape, number),
        lambda: weight[..., :-1].clone(),
        lambda: weight[None].clone(),
        lambda: weight.reshape(-1).clone(),
        lambda: weight.double() * 1e300,
        weight.half,
        weight.long,
        weight.bool,
        lambda: weight.to(torch.complex64),
        weight.to_sparse,
        lambda: weight.to("meta"),
        lambda: torch.zeros(0),
        lambda: weight.expand(3, *weight.shape),
        lambda: draw.choice((None, "x", 3.0, [1.0])),
    ]
    return draw.choice(changes)()


def _release(bench: Bench) -> Files:
    """The files of a released model, with a language model."""
    folder = bench.folder / "released"
    seeds.write_language_model(bench.folder)
    payload = Checkpoint.read(bench.checkpoint).payload
    save_release(folder, payload, bench.folder / "model.lm", None, "# A card\n")
    return seeds.read_folder(folder)


def _damage_release(files: Files, draw: Random, all_seeds: list[Files]) -> Files:
    """Damage the bytes of a file, a value of the configuration, or a weight."""
    kind = draw.random()
    if kind < 0.4:
        return _damage_some(files, draw, all_seeds)
    if kind < 0.75:
        return files | {CONFIGURATION: _damage_json(files[CONFIGURATION], draw, ())}
    weights = safetensors.torch.load(files[WEIGHTS])
    name = draw.choice(sorted(weights))
    damaged = _damage_weight(weights[name], draw)
    if not isinstance(damaged, torch.Tensor) or damaged.layout != torch.strided or damaged.is_meta:
        del weights[name]
    else:
        weights[name] = damaged.contiguous()
    return files | {WEIGHTS: safetensors.torch.save(weights)}
