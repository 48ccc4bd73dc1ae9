"""The programs in the guide to the server do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from project import ROOT
from signals import make_talk

from asr.endpoint import EndpointConfig

GUIDE = (ROOT / "docs" / "serve.md").read_text("utf-8")


def run(heading: str, server: Any, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the Python program of a section of the guide with a test's server."""
    section = GUIDE.split(f"## {heading}\n")[1].split("\n## ")[0]
    [program] = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    program = program.replace("localhost:8080", f"127.0.0.1:{server.port}")
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env=os.environ | {"OPENAI_API_KEY": ""},
    )


def expect(
    server: Any, samples: np.ndarray, rate: int, endpoint: EndpointConfig | None = None
) -> list[str]:
    """The texts of the segments of `Recognizer.stream`."""
    stream = server.recognizer.stream(640, endpoint)
    segments = [*stream.accept(samples, rate).segments]
    final = stream.finish()
    return [s.text for s in (*segments, *stream.take_segments(), final) if s.text]


def test_your_own_client(server, tmp_path: Path) -> None:
    samples = np.clip(make_talk(3.0, 44_100) * 20_000, -32_768, 32_767).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", samples, 44_100)
    done = run("Your own client", server, tmp_path / "talk.wav")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expect(server, samples, 44_100) != []


def test_realtime(server) -> None:
    pytest.importorskip("openai", reason="the official client is not installed")
    done = run("Realtime", server)
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(ROOT / "docs" / "sample.flac", dtype="int16")
    expected = expect(server, samples, rate, EndpointConfig(silence=0.5))
    assert done.stdout.splitlines() == expected[:1]
