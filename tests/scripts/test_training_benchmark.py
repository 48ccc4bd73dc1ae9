"""scripts/benchmarks/training.py measures all parts; the tests do not assert any speed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import write_tones
from loading import load
from project import ROOT
from torch import nn

from asr.data.manifest import write_manifest
from asr.encoder import Context, EncoderConfig
from asr.features import FeaturesConfig
from asr.model import AcousticModel

SCRIPT = ROOT / "scripts" / "benchmarks" / "training.py"
TINY = "--rounds 1 --seconds 4 --batch-seconds 4 --layers 2 --hidden 8".split()


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load(SCRIPT)
    bench, parts = sys.modules["training_bench"], sys.modules["training_parts"]
    monkeypatch.setattr(bench, "settle", lambda: None)  # exact figures are not needed here
    monkeypatch.setattr(parts, "DATA_FACTOR", 1)
    return module


@pytest.fixture
def speechbrain(benchmark: Any) -> Any:
    return sys.modules["training_speechbrain"]


@pytest.fixture
def bare(benchmark: Any) -> Any:
    return sys.modules["training_bare"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    write_manifest(folder / "tones.jsonl", write_tones(folder, 24))
    return folder / "tones.jsonl"


def run(benchmark: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *TINY, *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        return benchmark.main()
    finally:
        torch.set_num_threads(threads)


def positive(figures: Any) -> bool:
    """Whether there are figures and all numbers among them are above 0."""
    if isinstance(figures, dict):
        figures = list(figures.values())
    if isinstance(figures, list):
        return bool(figures) and all(positive(figure) for figure in figures)
    return not isinstance(figures, float) or figures > 0


def test_parts_in_this_process_report_their_figures(
    benchmark: Any, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = tmp_path / "figures.json"
    parts = ["pipeline", "data", "training"]
    arguments = ["--manifest", manifest, "--json", output, "--only", *parts]
    assert run(benchmark, monkeypatch, *arguments) == 0
    figures = json.loads(output.read_text())
    for kind in ("latency_controlled", "bidirectional"):
        step = figures["step"][kind]
        assert {"lstms", "bare", "step", "pipeline"} <= step.keys()
        assert step["bare"]["to_bare"] == step["lstms"]["to_lstms"] == 1
        assert positive(step["step"])
        assert positive(step["bare"])
        assert len(step["steps"]) == 1  # one round of one batch of 4 s
    turns = {(entry["augment"], entry["workers"]) for entry in figures["data"]}
    assert turns == {("none", 1), ("none", 2), ("standard", 1), ("standard", 2)}
    assert positive(figures["data"])
    assert len(figures["training"]["epochs"]) == 1  # the first epoch warms up
    assert positive(figures["training"]["epochs"][0]["lstms"])
    assert "load" in capsys.readouterr().out


def test_two_processes_are_measured(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), *TINY, "--manifest", str(manifest)]
    done = subprocess.run(
        [*command, "--only", "processes", "--json", str(output)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # after which it hangs
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())["processes"]
    assert positive(figures)
    assert len(figures["rounds"]) == 1


class Rival:
    """Replaces SpeechBrain's process: computes the loss of its first batch."""

    @torch.no_grad()
    def __init__(self, command: list[str], _log: Path, threads: int) -> None:
        folder = Path(command[-1])
        settings = json.loads((folder / "settings.json").read_text())
        assert settings["threads"] == threads == 1
        weights = torch.load(folder / "weights.pt")
        lstm = nn.LSTM(
            settings["inputs"], settings["hidden"], settings["layers"], True, True, 0.0, True
        )
        head = nn.Linear(2 * settings["hidden"], settings["symbols"])
        head.load_state_dict({k[5:]: weights.pop(k) for k in list(weights) if "head." in k})
        lstm.load_state_dict(weights)
        self.batches = torch.load(folder / "batches.pt")
        batch = self.batches[0]
        packed = nn.utils.rnn.pack_padded_sequence(
            batch["x"], batch["lengths"], batch_first=True, enforce_sorted=False
        )
        x, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0])
        log_probs = head(x).log_softmax(-1)
        loss = nn.functional.ctc_loss(
            log_probs, batch["targets"], batch["lengths"], batch["target_lengths"], reduction="sum"
        )
        losses = {"packed": float(loss / batch["symbols"]), "padded": 0.0}
        self.hello = {"versions": {"speechbrain": "0"}, "losses": losses}

    def ask(self, request: dict[str, Any]) -> dict[str, float]:
        assert request["reading"] in self.hello["losses"]
        assert request["batches"] == list(range(len(self.batches)))
        return {"cpu_seconds": 1.0, "wall_seconds": 1.0}

    def close(self) -> None:
        pass


def test_the_rival_receives_our_model_and_batches(
    benchmark: Any,
    speechbrain: Any,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speechbrain, "build_environment", lambda *_: Path())
    monkeypatch.setattr(speechbrain, "Worker", Rival)
    output = tmp_path / "figures.json"
    arguments = ["--manifest", manifest, "--json", output, "--only", "speechbrain"]
    assert run(benchmark, monkeypatch, *arguments) == 0
    figures = json.loads(output.read_text())["speechbrain"]
    assert figures["packed"]["first_loss"] == pytest.approx(figures["ours"]["first_loss"])
    assert figures["ours"]["times_ours"] == 1
    assert figures["packed"]["steps_per_cpu_second"] == 1


def test_a_rival_with_another_loss_is_left_out(
    benchmark: Any, speechbrain: Any, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Other(Rival):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.hello["losses"]["packed"] *= 1.01

    monkeypatch.setattr(speechbrain, "build_environment", lambda *_: Path())
    monkeypatch.setattr(speechbrain, "Worker", Other)
    assert run(benchmark, monkeypatch, "--manifest", manifest, "--only", "speechbrain") == 0
    assert "they do not compute the same" in capsys.readouterr().err


def test_a_rival_that_cannot_be_installed_is_left_out(
    benchmark: Any,
    speechbrain: Any,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setattr(speechbrain, "PACKAGES", (str(tmp_path / "no-such-package"),))
    output = tmp_path / "figures.json"
    arguments = ["--environments", tmp_path, "--json", output, "--only", "speechbrain"]
    assert run(benchmark, monkeypatch, "--manifest", manifest, *arguments) == 0
    assert "speechbrain is left out: it cannot be installed" in capsys.readouterr().err
    assert "cannot be installed" in json.loads(output.read_text())["speechbrain"]["left_out"]


def test_a_bare_loop_with_another_loss_is_refused(
    benchmark: Any, bare: Any, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original = bare.BareChunked.forward

    def forward(self: Any, x: Any, lengths: Any, context: Context | None) -> Any:
        return original(self, x, lengths, context and Context(context.chunk, 0))

    monkeypatch.setattr(bare.BareChunked, "forward", forward)
    assert run(benchmark, monkeypatch, "--manifest", manifest, "--only", "step") == 2
    assert "they do not compute the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("bidirectional", None),
        ("latency_controlled", None),
        ("latency_controlled", Context(4, 3)),
        ("latency_controlled", Context(50, 2)),  # longer than the recordings
    ],
)
def test_the_lstms_alone_have_the_shapes_of_the_encoder(
    bare: Any, kind: str, context: Context | None
) -> None:
    config = EncoderConfig(kind, layers=2, hidden=8, stack=2)
    encoder = AcousticModel(FeaturesConfig(mels=5), config, 7).encoder
    seen = []
    for layer in encoder.layers:
        for direction in (layer.ahead, layer.back):
            direction.cell.register_forward_hook(lambda _m, a, y: seen.append((a[0], y[0])))
    encoder(torch.randn(3, 39, 5), torch.tensor([39, 20, 7]), context)
    work = bare.LstmsAlone(encoder).prepare(3, 20, context)
    assert sorted((x.shape, y.shape) for _, x, y in work) == sorted(
        (x.shape, y.shape) for x, y in seen
    )


def test_invalid_options_are_refused(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(benchmark, "DIGITS", tmp_path / "none.jsonl")
    assert run(benchmark, monkeypatch, "--only", "data") == 2
    assert "python recipes/digits/prepare.py" in capsys.readouterr().err
    for arguments in (["--made-up", "--manifest", "x"], ["--only", "gpu"], ["--rounds", "0"]):
        with pytest.raises(SystemExit) as refused:
            run(benchmark, monkeypatch, *arguments)
        assert refused.value.code == 2
