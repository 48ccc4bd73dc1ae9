"""Evaluation: errors and texts of a set, collected or raised, whole or in shares."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from signals import ARPA, make_model, make_signal

from asr.checkpoint import Checkpoint, save_model
from asr.cli.main import main
from asr.data.manifest import Utterance, write_manifest
from asr.decoder.config import DecoderConfig
from asr.endpoint import EndpointConfig
from asr.errors import AudioError
from asr.evaluation import (
    compute_emissions,
    compute_hypotheses,
    decode_emissions,
    evaluate,
    group_batches,
    take_share,
)
from asr.recognizer import WHOLE, OperatingPoint, Recognizer
from asr.runtime import distributed
from asr.scoring import score
from asr.text import Vocabulary

RATE = 16_000
SECONDS = (1.5, 0.8, 2.0, 0.8, 1.1)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(make_model("latency_controlled"), Vocabulary.english())


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("utterances")
    signal = make_signal(10.0, RATE)
    made = []
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number}.wav"
        samples = signal[number * RATE :][: round(seconds * RATE)]
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        made.append(Utterance(f"u{number}", str(path), seconds, "some words"))
    return made


@pytest.fixture
def spoiled(utterances: list[Utterance], tmp_path: Path) -> list[Utterance]:
    """The same, and two that cannot be read among them."""
    gone = Utterance("gone", str(tmp_path / "gone.wav"), 1.0, "lost words")
    wrong = Utterance("wrong", utterances[2].audio, 9.0, "more lost words")
    return [gone, *utterances[:3], wrong, *utterances[3:]]


def test_the_texts_are_those_of_transcribe(
    recognizer: Recognizer, utterances: list[Utterance]
) -> None:
    counts: list[int] = []
    evaluation = evaluate(recognizer, utterances, "english", on_progress=counts.append)
    assert counts == [1] * 5
    assert list(evaluation.hypotheses) == [u.id for u in utterances]
    assert evaluation.errors == {}
    texts = {u.id: recognizer.transcribe(u.audio).text for u in utterances}
    assert {name: found.text for name, found in evaluation.hypotheses.items()} == texts
    assert evaluation.report == score({u.id: u.text for u in utterances}, texts, "english")
    emissions = {u.id: segments for u, segments in compute_emissions(recognizer, utterances)}
    assert list(emissions) == ["u2", "u0", "u4", "u1", "u3"], "the longest first"
    for threads in (1, 3):
        decoded = decode_emissions(recognizer, emissions, threads=threads)
        assert {u.id: decoded[u.id] for u in utterances} == evaluation.hypotheses


def test_errors_are_collected(recognizer: Recognizer, spoiled: list[Utterance]) -> None:
    counts: list[int] = []
    evaluation = evaluate(recognizer, spoiled, on_progress=counts.append)
    assert counts == [1] * 7
    assert list(evaluation.errors) == ["gone", "wrong"]
    assert all(isinstance(error, AudioError) for error in evaluation.errors.values())
    assert list(evaluation.hypotheses) == [f"u{number}" for number in range(5)]
    by_id = {utterance.id: utterance for utterance in evaluation.report.utterances}
    assert list(by_id) == [utterance.id for utterance in spoiled]
    assert (by_id["gone"].deletions, by_id["wrong"].deletions) == (2, 3)


def test_or_the_first_error_is_raised(recognizer: Recognizer, spoiled: list[Utterance]) -> None:
    for compute in (compute_emissions, compute_hypotheses):
        with pytest.raises(AudioError, match=r"9\.00 s are expected"):  # the longest comes first
            list(compute(recognizer, spoiled))


def test_the_caller_may_stop(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    counts: list[int] = []
    for utterance, _ in compute_emissions(recognizer, utterances, on_progress=counts.append):
        if utterance.id == "u4":
            break
    assert counts == [1, 1], "what the caller has finished"


def test_the_operating_point_acts(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    point = OperatingPoint(100, EndpointConfig(silence=0.1))
    found = evaluate(recognizer, utterances, operating_point=point).hypotheses
    assert found["u2"] == recognizer.transcribe(utterances[2].audio, point)
    assert found != evaluate(recognizer, utterances).hypotheses
    for _, segments in compute_emissions(recognizer, utterances, WHOLE):
        assert len(segments) == 1


@given(seconds=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=80), processes=st.integers(1, 9))
def test_shares_keep_batches_whole(seconds: list[float], processes: int) -> None:
    utterances = [Utterance(f"u{i}", "x.wav", length, "a") for i, length in enumerate(seconds)]
    batches = group_batches(utterances)
    shares = [take_share(batches, rank, processes) for rank in range(processes)]
    assert [u for share in shares for u in share] == sorted(utterances, key=lambda u: -u.seconds)
    regrouped = [batch for share in shares for batch in group_batches(share)]
    assert regrouped == batches


# Each command reads its checkpoint once


@pytest.fixture
def folder(utterances: list[Utterance], recognizer: Recognizer, tmp_path: Path) -> Path:
    """A tuned checkpoint, a language model and a manifest of more than one batch."""
    decoder = DecoderConfig("beam", beam=4)
    for name in ("model.pt", "other.pt"):
        save_model(tmp_path / name, recognizer.model, Vocabulary.english(), {}, decoder=decoder)
    write_manifest(tmp_path / "dev.jsonl", utterances)
    (tmp_path / "tiny.arpa").write_text(ARPA)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "speech.wav"],
        ["transcribe", "speech.wav", "--lm", "tiny.arpa"],
        ["align", "speech.wav", "some words"],
        ["evaluate", "dev.jsonl"],
        ["evaluate", "dev.jsonl", "--lm", "tiny.arpa", "-o", "results"],
        ["tune", "dev.jsonl", "--lm", "tiny.arpa", "--trials", "2"],
    ],
)
def test_a_command_reads_its_checkpoint_once(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(folder / "speech.wav", make_signal(1.5, RATE), RATE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("asr.runtime.distributed.count_cores", lambda: 1)
    counted = count_reads(monkeypatch)
    threads = torch.get_num_threads()
    try:
        assert main([*words, "--checkpoint", "model.pt", "--device", "cpu"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert counted == ["model.pt"]


def test_average_reads_each_checkpoint_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    counted = count_reads(monkeypatch)
    words = ["average", "model.pt", "other.pt", "-o", "mean.pt", "--manifest", "dev.jsonl"]
    assert main(words) == 0
    assert sorted(counted) == ["model.pt", "other.pt"]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that torch.load gets from now on."""
    paths: list[str] = []
    honest = torch.load

    def load(path: Any, **options: Any) -> Any:
        paths.append(str(path))
        return honest(path, **options)

    monkeypatch.setattr(torch, "load", load)
    return paths


def test_every_process_of_an_evaluation_reads_it_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process is given is unpickled: here in this one, without its distributed group."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("asr.recognizer.BATCH_SECONDS", 2.0)
    monkeypatch.setattr("asr.evaluation.BATCH_SECONDS", 2.0)
    counted = count_reads(monkeypatch)
    of_the_child = []

    def launch(function: Any, task: Any, processes: int) -> Any:
        assert processes == 2
        before = len(counted)
        result = function(pickle.loads(pickle.dumps(task)))
        of_the_child.append(len(counted) - before)
        return result

    monkeypatch.setattr(distributed, "launch", launch)
    words = ["evaluate", "dev.jsonl", "--checkpoint", "model.pt", "--device", "cpu"]
    assert main([*words, "--processes", "2", "--threads", "1"]) == 0
    assert (len(counted), of_the_child) == (2, [1])


def test_checkpoint_reads_count_torch_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_reads(monkeypatch)
    checkpoint = Checkpoint.read(folder / "model.pt")
    Recognizer.load(checkpoint, language_model=folder / "tiny.arpa")
    assert np.isfinite(checkpoint.model().head.weight.detach().numpy()).all()
    assert len(counted) == 1
