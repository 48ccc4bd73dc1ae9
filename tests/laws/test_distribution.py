"""The distribution has a name of its own: `asr` on the package index is another project."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADVICE = re.compile(r"pip install\s+(?:-e\s+)?[\"']*([A-Za-z.][\w./*-]*)(?:\[([\w,]+)\])?")
OTHERS = {"build"}  # other projects that pages may tell the reader to install


def wrong_advice(text: str) -> list[str]:
    """The commands in a text that would install something else than this project."""
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)  # strings that continue on the next line
    wrong = []
    for found in ADVICE.finditer(joined):
        name, extras = found[1], found[2]
        ours = name in (PROJECT["name"], ".") or name.startswith("dist/")
        known = set(PROJECT["optional-dependencies"])
        if not (ours or name in OTHERS) or (extras and not set(extras.split(",")) <= known):
            wrong.append(found[0])
    return wrong


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.splitlines()
    if not names:
        pytest.skip("git does not list the files of this folder")
    suffixes = (".py", ".md", ".yaml", ".toml", "")
    return [path for name in names if (path := ROOT / name).suffix in suffixes and path.is_file()]


def test_every_advice_installs_this_project() -> None:
    for path in sources():
        if path != Path(__file__) and path.name != "log.md":
            assert wrong_advice(path.read_text("utf-8", errors="replace")) == [], path


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'asr[microphone]'",
        "pip install asr",
        "pip install -e '.[mikrophone]'",
        'f"pip install "\n            "\'asr[media]\'"',
    ],
)
def test_wrong_advice_is_found(text: str) -> None:
    assert wrong_advice(text)


def test_the_name_is_not_that_of_another_project() -> None:
    assert PROJECT["name"] == "lstm-asr"
    assert PROJECT["scripts"] == {"asr": "asr.cli.main:main"}
