"""The wheel holds the whole package: each module of each folder, the types' mark and the models."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from golden import ROOT

PACKAGE = ROOT / "asr"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of this tree, in which `build` may leave what it likes."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(PACKAGE, tree / "asr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tree / "conf")  # becomes the package asr.conf
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (tree / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def find_wanted() -> set[str]:
    """What of the package has to be in a wheel."""
    paths = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("py.typed"), *PACKAGE.rglob("*.html")]
    paths += [*PACKAGE.glob("models/*/*"), *PACKAGE.glob("server/page/*")]
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    return names | {
        f"asr/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")
    }


def test_every_file_of_the_package_is_in_it(names: set[str]) -> None:
    wanted = find_wanted()
    assert {"asr/__init__.py", "asr/py.typed", "asr/models/english/config.json"} <= wanted
    assert wanted - names == set()


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_nothing_else_is_in_it(names: set[str]) -> None:
    others = {name for name in names - find_wanted() if ".dist-info/" not in name}
    assert others == set()


def test_it_declares_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        lines = archive.read(name).decode().splitlines()
    assert lines[0] == "[console_scripts]"
    assert lines[1].startswith("asr = asr")
