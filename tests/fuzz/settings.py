"""The doors of values: the configuration of a training, and the options of every command."""

import json
import re
from functools import cache
from pathlib import Path
from random import Random
from unittest import mock

import torch

from asr.runtime.distributed import process_group
from asr.training.config import Outcome, Task
from asr.training.run import prepare
from fuzz import seeds
from fuzz.doors import Door, Files, command
from fuzz.mutations import random_number, random_text

WORDS = "words.json"  # the command line of an input
RECORDING, MANIFEST, MODEL, COPY = "a.wav", "train.jsonl", "tiny.pt", "copy.pt"

# Valid values of every section, which are combined and damaged.
VALUES = """
    training.epochs=2 training.batch_seconds=20 training.accumulate=1 training.learning_rate=1e-3
    training.warmup_steps=5 training.weight_decay=0.1 training.clip_norm=2 training.average_decay=0.9
    training.seed=3 training.keep=1 training.precision=float32 training.consistency=0.1
    training.start_from= training.checkpoint_steps=7 training.bad_steps_limit=3
    encoder.kind=forward encoder.layers=1 encoder.hidden=8 encoder.stack=4 encoder.dropout=0.1
    encoder.projection=4 encoder.chunk=[8,4] encoder=bidirectional encoder=latency_controlled
    features.mels=20 features.sample_rate=16000 features.window_ms=25 features.hop_ms=10
    features.low_hz=20 features.high_hz=7600 features.floor=1e-6
    augment=none augment=standard augment.speeds=[0.9,1.1] augment.tempo=0.1 augment.mel_masks=2
    augment.mel_shift=1 augment.time_masks=1
    augment.gain_db=3 augment.noise_folder= augment.noise_snr_db=[5,30]
    encoder.whole=0.5 encoder.right=[0,4]
    decoder=greedy decoder=beam decoder.kind=greedy decoder.beam=4 decoder.alpha=0.3 decoder.nbest=1
    decoder.token_floor=-6 decoder.strict=false decoder.priors=[] decoder.hotword_weight=2
    runtime.device=cpu runtime.workers=0 runtime.processes=1 runtime.timeout_minutes=5
    data.vocabulary=english data.vocabulary=transcripts +start=released
""".split()
ODD_VALUES = """
    ${folder} ${oc.env:HOME} ${a ??? null None true yes [] [1,2 {a:1} {a:{b:[]}} 'x "x" a,b 1,2 [nan]
    range(1,3) choice(1,2) int(3) \\ * x: x:y = : @ # ~ ${now:%Y} ${oc.create:{}} glob(*) [[[]]] {}
""".split()
COMMANDS: list[list[str]] = [
    ["transcribe", RECORDING, "--checkpoint", MODEL],
    ["stream", RECORDING, "--checkpoint", MODEL],
    ["align", RECORDING, "the old man", "--checkpoint", MODEL],
    ["evaluate", MANIFEST, "--checkpoint", MODEL, "--processes", "1"],
    ["info", RECORDING],
    ["score", MANIFEST, MANIFEST],
    ["doctor", MANIFEST, "--threads", "1"],
    ["average", MODEL, COPY, "-o", "mean.pt"],
    ["lm", "train", "text.txt", "-o", "out.arpa"],
    ["release", MODEL, "out"],
    ["tune", MANIFEST, "--checkpoint", MODEL, "--lexicon", "text.txt", "--trials", "1"],
]
OPTIONS = """
    --latency=500 --pause=0.3 --decoder=beam --decoder=greedy --lm=text.txt --lexicon=text.txt
    --hotwords=text.txt --hotword=man --hotword-weight=2 --beam=4 --alpha=0.3 --beta=1 --unknown=-1
    --prior=0.1 --strict --nbest=2 --format=json --format=srt --format=vtt --format=ctm --format=tsv
    --device=cpu --output=out --profile=english --profile=turkish --json --rate=8000 --realtime
    --order=2 --prune=1 --vocabulary-limit=3 --quantize --batch-seconds=10 --fastest=1.2 --strict
    --trials=2 --picture=x.png --notes=text.txt --results=text.txt --html=x.html --write=y.jsonl
    --checkpoint=text.txt --checkpoint=. --format=lines --format=kaldi --version --help -- - x ..
""".split()


def configuration_door() -> Door:
    """Values of Hydra: a training is prepared up to its first step."""
    return Door(
        "configuration",
        lambda: [_make_seed(["--recipe", "folder", "encoder.hidden=8", "encoder.layers=1"])],
        _damage_values,
        _enter_configuration,
        judges_memory=False,
        share=0.15,
    )


def options_door(checkpoint: Path) -> Door:
    """Options of every command."""

    def load_seeds() -> list[Files]:
        return [
            _make_seed(words) | dict.fromkeys((MODEL, COPY), checkpoint.read_bytes())
            for words in COMMANDS
        ]

    return Door("options", load_seeds, _damage_options, _enter_options, judges_memory=False)


def _make_seed(words: list[str]) -> Files:
    texts = "\n".join(["the old man", "opened the door", "and looked"]) + "\n"
    return {
        WORDS: json.dumps(words).encode(),
        RECORDING: seeds.wav(),
        MANIFEST: seeds.manifest([RECORDING, RECORDING], ["the old man", "a door"]),
        "text.txt": texts.encode(),
    }


def _damage_values(files: Files, draw: Random, _: list[Files]) -> Files:
    words = json.loads(files[WORDS])
    chosen = draw.sample(VALUES, draw.choice((1, 2, 4)))
    words += [_damage_value(word, draw) for word in chosen]
    if draw.random() < 0.1:
        words.insert(draw.randrange(len(words) + 1), random_text(draw) or "-m")
    return files | {WORDS: json.dumps(words).encode()}


def _damage_value(word: str, draw: Random) -> str:
    """Exchange the value, rarely the key, of key=value."""
    key, _, value = word.partition("=")
    kind = draw.random()
    if kind < 0.3:
        value = random_number(draw)
    elif kind < 0.5:
        value = draw.choice(ODD_VALUES)
    elif kind < 0.65:
        value = random_text(draw)
    elif kind < 0.75:
        value = draw.choice(VALUES).partition("=")[2]
    elif kind < 0.82:
        key = draw.choice(
            (key + random_text(draw), random_text(draw), key.partition(".")[0], "~" + key)
        )
    elif kind < 0.86:
        key = draw.choice(("+", "++", "~", "hydra.", "@")) + key
    elif kind < 0.9:
        value = draw.choice(("[", "{a:", "${", "'", "(", "9")) * draw.choice((5, 900, 5_000))
    word = f"{key}={value}"
    # The folder of a training, and what Hydra itself writes, stay inside the folder of the input.
    return re.sub(r"[/\0]", "_", word) if key.lstrip("+~").startswith(("folder", "hydra")) else word


def _enter_configuration(folder: Path) -> object:
    words = json.loads((folder / WORDS).read_bytes())
    prepared: list[Outcome] = []

    def prepare_only(_: object, task: Task, processes: int) -> Outcome:
        with process_group(task.runtime) as process:
            run = prepare(task, process)
            assert run.metrics is not None
            run.metrics.close()
        outcome = Outcome(task.folder, 0, 0, 1.0, interrupted=False)
        prepared.append(outcome)
        return outcome

    head = ["train", "--train", folder / MANIFEST, "--dev", folder / MANIFEST]
    recipe, values = words[:2], words[2:]
    try:
        with mock.patch("asr.experiment.launch", prepare_only):
            command(*head, *recipe, f"folder={folder / 'run'}", *values)
    finally:
        torch.set_num_threads(1)
    return prepared or None


@cache
def _list_options(*words: str) -> list[str]:
    """Those of `OPTIONS` that a command knows."""
    _, printed = command(*words, "--help")
    known = set(re.findall("--[a-z-]+", printed))
    return [option for option in OPTIONS if option.partition("=")[0] in known]


def _damage_options(files: Files, draw: Random, all_seeds: list[Files]) -> Files:
    words = json.loads(files[WORDS])
    name = words[: 2 if words[0] == "lm" else 1]
    options = OPTIONS if draw.random() < 0.2 else _list_options(*name) or OPTIONS
    for option in draw.sample(options, min(len(options), draw.choice((1, 1, 2, 3)))):
        name, equals, value = option.partition("=")
        kind = draw.random()
        if equals and kind < 0.4:
            value = random_number(draw)
        elif equals and kind < 0.6:
            value = re.sub("[/\0]", "_", random_text(draw))
        words += [name, value] if equals else [name]
    if draw.random() < 0.1:
        del words[draw.randrange(1, len(words))]
    return files | {WORDS: json.dumps(words).encode()}


def _enter_options(folder: Path) -> object:
    words = json.loads((folder / WORDS).read_bytes())
    code, _ = command(*words)
    return None if code == 2 else True
