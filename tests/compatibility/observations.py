"""What is observed of the formats that users hold: once by `write_golden.py`, then by every test.

Each function works in a folder of its own, which `golden.write_workshop` has filled, as the current
folder, and returns plain JSON data.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from golden import (
    SAMPLE,
    TRAINING,
    call,
    call_recipe,
    describe,
    kinds_of,
    load,
    read_header,
    read_index,
    read_lines,
)
from safetensors.numpy import load_file

import asr

ONE_THREAD = "--threads=1"  # beside other work, two take many times as long
SPOKEN = "the old man opened the door and looked out into the rain"  # in docs/sample.flac
TEXT_FORMATS = ("srt", "vtt", "ctm", "textgrid")
SENTENCES = ["the cat sat on the mat", "a dog sat", "an unheard word", "the"]


def hear_sample() -> np.ndarray:
    """The log-probs (T', V) that the English model gives for docs/sample.flac.

    Both modules are called as modules: `features` is a part of the names in every checkpoint.
    """
    recognizer = asr.Recognizer.default(threads=1)
    waveform = asr.load_audio(SAMPLE, recognizer.sample_rate)
    with torch.inference_mode():
        features = recognizer.model.features(torch.from_numpy(waveform))  # (T, F)
        emissions = recognizer.model(features[None], torch.tensor([len(features)]))
    found: np.ndarray = emissions.log_probs[0].numpy()
    return found


def expect(code: int, *words: object, stdin: bytes = b"") -> str:
    """What a command prints, which has to end with this exit code."""
    done = call(*words, stdin=stdin)
    assert done.code == code, done
    return done.out


def observe_transcripts() -> dict[str, Any]:
    """What `asr transcribe` prints of the documentation's sample, in every format."""
    found: dict[str, Any] = {}
    found["json"] = json.loads(expect(0, "transcribe", "sample.flac", ONE_THREAD, "--format=json"))
    best = expect(
        0, "transcribe", "sample.flac", ONE_THREAD, "--format=json", "--nbest=2", "--beam=16"
    )
    found["nbest"] = describe(json.loads(best))
    for kind in TEXT_FORMATS:  # greedily, which is fast
        found[kind] = expect(
            0, "transcribe", "sample.flac", ONE_THREAD, f"--format={kind}", "--decoder=greedy"
        )
    # A line a word, and its confidence at the end: a number, which may differ in its last digits.
    found["ctm"] = [line.split() for line in found["ctm"].splitlines()]
    for row in found["ctm"]:
        row[-1] = float(row[-1])
    return found


def observe_stream() -> dict[str, Any]:
    """The lines of JSON that `asr stream` prints."""
    records = read_lines(expect(0, "stream", "sample.flac", ONE_THREAD, "--latency=1000"))
    waveform, rate = soundfile.read("sample.flac", dtype="float32")
    paused = np.concatenate([waveform, np.zeros(2 * rate, np.float32), waveform])
    soundfile.write("paused.wav", paused, rate)
    words = ("stream", "paused.wav", ONE_THREAD, "--latency=1000", "--decoder=greedy")
    paused_records = read_lines(expect(0, *words))
    return {
        "kinds": kinds_of(records + paused_records),
        "final": records[-1],
        "segments": [record for record in paused_records if "segment" in record],
    }


def observe_alignment() -> dict[str, Any]:
    """What `asr align` finds of the words in the sample."""
    found: dict[str, Any] = json.loads(expect(0, "align", "sample.flac", SPOKEN, ONE_THREAD))
    return found


def observe_evaluation() -> dict[str, Any]:
    """The files of `asr evaluate --output`."""
    text = SPOKEN.replace("the old man", "an old woman")
    seconds = soundfile.info("sample.flac").duration
    record = {"audio_filepath": "sample.flac", "duration": seconds, "text": text}
    Path("sample.jsonl").write_text(f"{json.dumps(record)}\n", "utf-8")
    expect(0, "evaluate", "sample.jsonl", ONE_THREAD, "--output=evaluation", "--decoder=greedy")
    folder = Path("evaluation")
    [hypothesis] = read_lines((folder / "hypotheses.jsonl").read_text("utf-8"))
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert Path(hypothesis.pop("audio_filepath")) == Path("sample.flac").resolve()
    report.pop("checkpoint")
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "hypothesis": hypothesis,
        "report": report,
    }


def observe_score() -> dict[str, Any]:
    """What `asr score --json` prints."""
    Path("reference.kaldi").write_text("u1 the cat sat\nu2 a dog\n", "utf-8")
    Path("hypothesis.jsonl").write_text(
        '{"id": "u1", "pred_text": "the cat sat down", "text": "none"}\n'
        '{"id": "u2", "text": "a log"}\n',
        "utf-8",
    )
    found: dict[str, Any] = json.loads(
        expect(0, "score", "reference.kaldi", "hypothesis.jsonl", "--json")
    )
    return found


def observe_doctor() -> dict[str, Any]:
    """What `asr doctor --json` writes about the corpus of tones, with faults put into it."""
    lines = Path("corpus/train.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    faults = [
        first | {"id": "long", "duration": first["duration"] + 3},
        first | {"id": "gone", "audio_filepath": "gone.wav"},
        first | {"id": "other", "text": "d\u0451d 7"},
    ]
    content = "\n".join([*lines, *map(json.dumps, faults), "{"]) + "\n"
    Path("corpus/faulty.jsonl").write_text(content, "utf-8")
    words = ("corpus/faulty.jsonl", "corpus/dev.jsonl", "--json=doctor.json", "--threads=1")
    expect(1, "doctor", *words)
    document = json.loads(Path("doctor.json").read_text("utf-8"))
    return {
        "structure": describe(document),
        "findings": [
            {key: finding[key] for key in ("severity", "kind", "split", "ids")}
            for finding in document["findings"]
        ],
    }


def observe_release() -> dict[str, Any]:
    """The folder that `asr release` makes."""
    Path("notes.md").write_text("A note.\n", "utf-8")
    expect(0, "release", "run", "released", "--lm=tiny.lm", "--notes=notes.md")
    folder = Path("released")
    tensors = load_file(folder / "model.safetensors")
    expect(0, "info", "released")
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "config": json.loads((folder / "config.json").read_text("utf-8")),
        "tensors": {
            name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in sorted(tensors.items())
        },
        "language model is copied": (folder / "language-model.lm").read_bytes()
        == Path("tiny.lm").read_bytes(),
    }


def observe_language_model() -> dict[str, Any]:
    """What the stored binaries say: their headers, their n-grams as ARPA, scores of sentences."""
    found: dict[str, Any] = {}
    for name in ("tiny.lm", "tiny-quantised.lm"):
        arpa = Path(name).with_suffix(".arpa")
        expect(0, "lm", "convert", name, arpa)
        found[name] = {
            "header": read_header(Path(name)),
            "arpa": [line.split("\t") for line in arpa.read_text("utf-8").splitlines()],
            "perplexities": [
                float(line.split()[-1])
                for sentence in SENTENCES
                for line in expect(
                    0, "lm", "perplexity", name, "-", stdin=f"{sentence}\n".encode()
                ).splitlines()
                if line.startswith("perplexity")
            ],
        }
        for row in found[name]["arpa"]:
            row[:] = [float(cell) if _is_number(cell) else cell for cell in row]
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def observe_new_language_model() -> dict[str, Any]:
    """The header of a binary that is trained now on the stored text, in both kinds."""
    found = {}
    for name, options in (("new.lm", []), ("new-quantised.lm", ["--quantize"])):
        expect(0, "lm", "train", "tiny.txt", "--order=3", "-o", name, *options)
        found[name] = read_header(Path(name))
    return found


def observe_run(folder: Path) -> dict[str, Any]:
    """What a training that has ended leaves behind."""
    rows = read_lines((folder / "metrics.jsonl").read_text("utf-8"))
    last = load(folder / "last.pt")
    groups = last["training"]["optimizer"].pop("param_groups")  # whose other keys are torch's
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config["training"].pop("unreadable_limit", None)  # newer than what is stored
    return {
        "files": sorted(
            path.name for path in folder.iterdir() if not path.name.startswith((".", "epoch"))
        ),
        "metrics": kinds_of(rows),
        "last.pt": describe(last),
        "parameters": [group["params"] for group in groups],
        "best.pt": describe(load(folder / "best.pt")),
        "fingerprint": last["training"]["fingerprint"],
        "config.yaml": describe(config),
    }


def observe_skipped() -> dict[str, Any]:
    """The lines of metrics.jsonl where steps were skipped: no loss is finite at such a rate."""
    words = [
        word for word in TRAINING if not word.startswith(("folder=", "training.learning_rate"))
    ]
    done = call_recipe("folder=skipping", "training.learning_rate=1e30", *words)
    assert done.code == 2, done
    return kinds_of(read_lines(Path("skipping/metrics.jsonl").read_text("utf-8")))


def observe_index() -> dict[str, Any]:
    """The facts in the index of a manifest, but for those that differ from run to run."""
    found = read_index(Path("corpus/train.jsonl.index"))
    facts = found["facts"]
    facts["characters"].sort()  # which stand in the order of a set's hashes
    del facts["format"][1:], facts["checksum"], facts["times"]
    return found


def step_losses(folder: Path) -> list[float]:
    """The losses of a run's steps, of which no one is written twice."""
    rows = read_lines((folder / "metrics.jsonl").read_text("utf-8"))
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    return [row["loss"] for row in steps]


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights of last.pt, under training/ those without the moving average."""
    payload = load(folder / "last.pt")
    found = {name: weight.numpy() for name, weight in payload["weights"].items()}
    for name, weight in payload["training"]["weights"].items():
        if not name.startswith("features."):
            found[f"training/{name}"] = weight.numpy()
    return found


OBSERVATIONS = {  # of formats.json, but for the runs'
    "transcripts": observe_transcripts,
    "stream": observe_stream,
    "alignment": observe_alignment,
    "evaluation": observe_evaluation,
    "score": observe_score,
    "doctor": observe_doctor,
    "release": observe_release,
    "language model": observe_language_model,
    "new language model": observe_new_language_model,
    "skipped": observe_skipped,
}
