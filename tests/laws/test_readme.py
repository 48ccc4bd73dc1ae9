"""Law 7: the README and the guides are true. Their code blocks run here, one after the other, in a
small copy of a checkout; what costs too much (downloads, GPUs, this very test) has its scripts and
options checked instead. Programs are forks of a process that has already imported torch.

A hidden comment in the README gives the training scripts the small budgets that they run with here,
and another one marks the blocks whose commands are checked and not run. Everything runs with a
torchaudio that cannot be imported: law 6 on the whole way from preparation to transcription.
"""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from forkserver import ForkServer
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
GUIDES = ["transcribe", "data", "decode", "stream", "evaluate", "python", "train", "serve"]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES)]

BLOCK = re.compile(r"(<!-- test: checked, not run -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
BUDGETS = re.compile(r"<!-- test: budgets\n(.*?)-->", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    language: str
    code: str
    runs: bool

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a bash block as words, comments dropped."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(readme: str) -> list[Block]:
    return [Block(kind, code, not mark) for mark, kind, code in BLOCK.findall(readme)]


def budgets(readme: str) -> dict[str, str]:
    """Script -> the arguments that make it small."""
    [table] = BUDGETS.findall(readme)
    return dict(line.split(maxsplit=1) for line in table.splitlines())


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **values}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A program that runs Python without torchaudio and starts in milliseconds."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torchaudio'] = None\n")
    server = ForkServer(folder / "server", environment(PYTHONPATH=f"{folder}:{ROOT}"))
    yield str(server.program)
    server.close()


@cache
def output(*command: str) -> str:
    """What a command that must succeed prints, on both streams."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    if done.returncode:
        raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def check(words: list[str], python: str) -> None:
    """Raise AssertionError where a command names a script or an option that does not exist."""
    match words:
        case ["bash", script]:
            output("bash", "-n", script)
        case ["python", script, *arguments]:
            assert (ROOT / script).is_file(), f"the README names {script}, which does not exist"
            if not arguments:
                return
            if "asr.recipe" in (ROOT / script).read_text("utf-8"):
                # The configuration is composed and not run; of a sweep, that of the first job.
                words = [word.split(",")[0] for word in arguments if word != "-m"]
                output(python, script, *words, "--cfg", "job")
            else:
                check_options(arguments, output(python, script, "--help"))
        case ["asr", "lm", command, *arguments]:
            check_options(arguments, output(python, "-m", "asr", "lm", command, "--help"))
        case ["asr", command, *arguments]:
            check_options(arguments, output(python, "-m", "asr", command, "--help"))
        case ["torchrun", *arguments]:
            place = next(i for i, word in enumerate(arguments) if word.endswith(".py"))
            launcher = get_args_parser().format_help().replace("_", "-")
            check_options(arguments[:place], launcher)
            check(["python", *arguments[place:]], python)
        case ["sbatch", *arguments] if "scripts/slurm" in arguments:
            check(["python", *arguments[arguments.index("scripts/slurm") + 1 :]], python)
        case ["sbatch", *arguments] if "--wrap" in arguments:
            check(shlex.split(arguments[-1].removeprefix("srun ")), python)
        case ["cat" | "export" | "source", *_] | ["python3", "-m", "venv", _]:
            pass
        case ["pip", "install", *_]:
            pass  # test_distribution.py reads these
        case _:
            raise AssertionError(f"the README's command {shlex.join(words)} is of no known kind")


def check_options(arguments: list[str], usage: str) -> None:
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", usage))
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("-") and option != "-":
            assert option in known, f"the README uses {option}, which its command does not know"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """What a fresh clone is after installation, with recordings and a python that minds budgets."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("conf", "docs", "recipes", "scripts", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    small = "".join(f'*{name}) set -- "$@" {more} ;;\n' for name, more in budgets(README).items())
    write_program(programs / "python", f'case "$1" in\n{small}esac\nexec {python} "$@"\n')
    write_program(programs / "asr", f'exec {python} -m asr "$@"\n')
    # scripts/setup takes this for an installation that is up to date.
    (folder / ".venv/installed").write_text(f"{folder}\n{(ROOT / 'pyproject.toml').read_text()}")
    write_recordings(folder)
    write_sentences(folder)
    return folder


def write_program(path: Path, code: str) -> None:
    path.write_text("#!/usr/bin/env bash\n" + code)
    path.chmod(0o755)


def write_recordings(folder: Path) -> None:
    """The user's own files that the README speaks of."""
    random = np.random.default_rng(1)
    (folder / "my-recordings").mkdir()
    for number in range(4):
        waveform = random.normal(0, 0.1, 24_000)
        soundfile.write(folder / "my-recordings" / f"{number}.wav", waveform, 16_000)
        (folder / "my-recordings" / f"{number}.txt").write_text("Good morning!\n")
    shutil.copy(folder / "my-recordings" / "0.wav", folder / "recording.wav")


def write_sentences(folder: Path) -> None:
    """The user's own text that the README speaks of."""
    (folder / "sentences.txt").write_text("the cat sat on the mat\nthe dog sat\n" * 10)
    (folder / "other-sentences.txt").write_text("the dog sat on the cat\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, checkout: Path, python: str) -> None:
    path = f"{checkout / '.venv/bin'}:{os.environ['PATH']}"
    for block in blocks(page.read_text("utf-8")):
        if not block.runs or block.language not in ("bash", "python"):
            continue
        shell = ["bash", "-euo", "pipefail", "-c", block.code]
        done = subprocess.run(
            shell if block.language == "bash" else ["python", "-c", block.code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=checkout,
            env=environment(PATH=path, PYTHONPATH=f"{Path(python).parents[1]}:{ROOT}"),
        )
        assert done.returncode == 0, f"{block.code}\n{done.stdout}"
        if "quickstart" in block.code:
            assert "WER" in done.stdout
            assert (checkout / "runs/digits/curves.png").is_file()
    assert (checkout / "runs/digits/best.pt").is_file()


CHECKED = [block for page in PAGES for block in blocks(page.read_text("utf-8")) if not block.runs]
for path in sorted(ROOT.glob("recipes/*/*.md")):
    CHECKED += blocks(path.read_text("utf-8"))
CHECKED = [block for block in CHECKED if block.language == "bash"]


@pytest.mark.parametrize(
    "command", sorted({shlex.join(words) for block in CHECKED for words in block.commands})
)
def test_what_does_not_run_exists(command: str, python: str) -> None:
    check(shlex.split(command), python)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("bash scripts/missing", "No such file"),
        ("python recipes/digits/missing.py", "which does not exist"),
        ("python recipes/digits/prepare.py --utterance 10", "--utterance, which"),
        ("python recipes/librispeech/train.py training.epoch=3", "ended with 2"),
        ("torchrun --proc-per-node 2 recipes/librispeech/train.py", "--proc-per-node, which"),
        ("torchrun --nproc-per-node 2 recipes/librispeech/missing.py", "which does not exist"),
        ("asr transcribe --chekpoint best.pt recording.wav", "--chekpoint, which"),
        ("asr trnscribe recording.wav", "ended with 2"),
        ("make check", "of no known kind"),
    ],
)
def test_a_wrong_command_is_found(command: str, complaint: str, python: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(shlex.split(command), python)


def test_budgets_are_for_scripts_that_exist() -> None:
    assert budgets(README)
    for script in budgets(README):
        assert (ROOT / script).is_file(), script


ALL_PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_paths_and_extras_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(r"`((?:asr|conf|docs|recipes|scripts|tests)/[\w./-]*)`", text)
    for path in paths if page.name != "log.md" else []:  # the log names files of its day
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert extra in extras["optional-dependencies"], extra


def test_the_tree_shows_every_folder_and_module_of_the_front_page() -> None:
    [tree] = [code for _, kind, code in BLOCK.findall(README) if kind == "text"]
    shown = set(re.findall(r"[\w.]+/?", tree))
    for path in (ROOT / "asr").iterdir():
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in shown, path.name
        elif (path / "__init__.py").exists():
            assert f"{path.name}/" in shown, path.name


def test_every_guide_is_linked() -> None:
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"architecture", "log"}
    assert sorted(GUIDES) == sorted(guides)
    for name in GUIDES:
        assert f"(docs/{name}.md)" in README, name
