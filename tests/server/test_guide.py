"""The examples of docs/serve.md run against a server."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from project import ROOT

GUIDE = (ROOT / "docs/serve.md").read_text("utf-8")
ADDRESS = "http://localhost:8080"


@pytest.fixture(scope="module")
def text(bundled: SimpleNamespace) -> str:
    return bundled.recognizer.transcribe(ROOT / "docs/sample.flac").text


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(bundled, text) -> None:
    [block] = blocks("curl")
    answers = []
    for line in block.splitlines():
        words = shlex.split(line.replace(ADDRESS, bundled.url))
        done = subprocess.run(
            [words[0], "--silent", "--fail-with-body", *words[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout
        answers.append(done.stdout)
    json, srt, verbose, events, models = answers
    assert f'"text":"{text}"' in json
    assert "00:00:00,200 --> " in srt
    assert '"words":[{"word":"the","start":' in verbose
    assert events.count("data: ") == 2
    assert '"id":"asr-english"' in models


def test_python(bundled, text, monkeypatch) -> None:
    pytest.importorskip("openai", reason="the official client is not installed")
    monkeypatch.chdir(ROOT)
    code = next(block for block in blocks("python") if "import OpenAI\n" in block)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        scope: dict = {}
        exec(compile(code.replace(ADDRESS, bundled.url), "docs/serve.md", "exec"), scope)
        scope["client"].close()
    assert out.getvalue().strip() == text


def test_every_option_in_the_guide_exists(run_asr) -> None:
    code, out, _ = run_asr("serve", "--help")
    assert code == 0
    for option in re.findall(r"`(?:asr serve )?(--[a-z-]+)", GUIDE):
        if option != "--latency":  # of asr transcribe
            assert option in out
