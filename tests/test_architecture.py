"""The house as docs/architecture.md draws it: the source read with `ast`, and live imports."""

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "asr"

# A module imports what stands on a lower floor, and on its own floor only what TIES names.
FLOORS = {
    "alignment": 0,
    "arpa": 0,
    "audio": 0,
    "augment": 0,
    "beam": 0,
    "decode": 0,
    "diagnosis": 0,
    "distributed": 0,
    "endpoint": 0,
    "errors": 0,
    "estimation": 0,
    "features": 0,
    "files": 0,
    "formats": 0,
    "language": 0,
    "lexicon": 0,
    "lstm": 0,
    "model": 0,
    "ngram": 0,
    "planning": 0,
    "scoring": 0,
    "search": 0,
    "sound": 0,
    "synthesis": 0,
    "text": 0,
    "checkpoint": 1,
    "curves": 1,
    "data": 1,
    "index": 1,
    "tuning": 1,
    "doctor": 2,
    "recognizer": 2,
    "stream": 2,
    "train": 2,
    "averaging": 4,
    "cli": 4,
    "config": 4,
    "decoding": 4,
    "examining": 4,
    "listening": 4,
    "measuring": 4,
    "modelling": 4,
    "progress": 4,
    "release": 4,
}
TIES = {
    "alignment": {"decode", "text"},
    "augment": {"audio"},  # noise and rooms are recordings; speed is a resampling
    "arpa": {"ngram"},
    "beam": {"decode", "language", "lexicon", "ngram", "search", "text"},
    "estimation": {"language", "ngram"},
    "language": {"arpa", "files", "ngram"},
    "lexicon": {"text"},
    "search": {"lexicon", "ngram"},
    "model": {"features", "lstm"},
    "planning": {"augment"},
    "decode": {"text"},
    "endpoint": {"text"},
    "formats": {"decode"},
    "scoring": {"text"},
    "sound": {"audio"},
    "index": {"data"},
    "recognizer": {"stream"},
    "train": {"recognizer"},  # validation goes the one path of inference
    "averaging": {"progress"},
    "cli": {"averaging", "decoding", "examining", "listening", "modelling", "progress", "release"},
    "config": {"progress"},
    "decoding": {"progress"},
    "examining": {"progress"},
    "listening": {"progress"},
    "measuring": {"decoding", "progress"},
    "modelling": {"progress"},
    "release": {"progress"},
}
FORBIDDEN_NAMES = {"base", "common", "core", "helper", "helpers", "misc", "util", "utils"}
PUBLIC = {"AsrError", "Hypothesis", "Recognizer", "Report", "Vocabulary", "load_audio", "score"}

SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(PACKAGE.glob("*.py"))}
MODULES = {name: source for name, source in SOURCES.items() if name != "__init__"}


def imported(source: str) -> set[str]:
    """Every module that `source` imports anywhere, functions included, by its full dotted name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                home = ".".join(filter(None, ["asr" if level else "", module]))
                # `from asr import x` may name the module x: the package itself has nothing to give.
                found |= {f"asr.{alias.name}" for alias in names} if home == "asr" else {home}
            case ast.Constant(value=str(text)) if text.startswith("asr."):
                if text.split(".")[1] in FLOORS:
                    found.add(text)  # what import_module is given
    return found


def inner(source: str) -> set[str]:
    """The modules of asr that `source` imports."""
    return {name.split(".")[1] for name in imported(source) if name.startswith("asr.")}


def outer(source: str) -> set[str]:
    """The top-level packages that `source` imports."""
    return {name.split(".")[0] for name in imported(source)}


def misplaced(sources: dict[str, str]) -> list[str]:
    """What breaks the floors, one line each."""
    wrong = []
    for name, source in sources.items():
        if name not in FLOORS:
            wrong.append(f"{name} has no floor")
            continue
        for target in sorted(inner(source) - {"errors"}):
            if target not in FLOORS:
                wrong.append(f"{name} imports asr.{target}, which is no module with a floor")
            elif FLOORS[target] > FLOORS[name]:
                wrong.append(f"{name} imports {target}, from a floor above")
            elif FLOORS[target] == FLOORS[name] and target not in TIES.get(name, set()):
                wrong.append(f"{name} imports {target}, sideways and not among the ties")
    return wrong


def guarded(source: str) -> list[str]:
    """The blocks of `source` that only type checkers read."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]


def prints(source: str) -> bool:
    """Whether `source` calls print or touches the process's output streams."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                return True
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
                return True
            case ast.ImportFrom(module="sys", names=names) if {"stdout", "stderr"} & {
                alias.name for alias in names
            }:
                return True
    return False


def undocumented(source: str) -> Iterator[str]:
    """The public classes, functions and methods of `source` that have no docstring."""

    def visit(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if child.name.startswith("_"):
                    continue
                if ast.get_docstring(child) is None:
                    yield prefix + child.name
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{prefix}{child.name}.")

    module = ast.parse(source)
    if ast.get_docstring(module) is None:
        yield "the module"
    yield from visit(module, "")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


# Floors


def test_imports_only_go_down() -> None:
    assert misplaced(MODULES) == []


def test_every_floor_has_its_module() -> None:
    assert sorted(FLOORS) == sorted(MODULES)


def test_sideways_ties_make_no_circle() -> None:
    graph = {name: inner(source) for name, source in MODULES.items()}
    tuple(TopologicalSorter(graph).static_order())  # CycleError


@pytest.mark.parametrize(
    "planted",
    [
        "import asr.train",
        "from asr.train import Trainer",
        "from asr import train",
        "from .train import Trainer",
        "from . import train",
        "def late():\n    from asr.train import Trainer",
        "import importlib\nimportlib.import_module('asr.train')",
    ],
)
def test_planted_upward_import_is_found(planted: str) -> None:
    assert misplaced({"features": planted}) == ["features imports train, from a floor above"]


def test_planted_sideways_import_and_unknown_module_are_found() -> None:
    assert misplaced({"lstm": "import asr.features"}) == [
        "lstm imports features, sideways and not among the ties"
    ]
    assert misplaced({"extra": ""}) == ["extra has no floor"]
    assert misplaced({"cli": "from asr.extra import x"}) == [
        "cli imports asr.extra, which is no module with a floor"
    ]
    assert misplaced({"model": "from asr.features import LogMel\nimport asr.errors"}) == []


def test_library_imports_nothing_from_floor_five() -> None:
    for name, source in SOURCES.items():
        assert not outer(source) & {"recipes", "scripts", "tests"}, name


# Order inside the house


def test_no_type_checking_import_hides_a_circle() -> None:
    # The two that must load nothing name their types like this (law 6); `misplaced` and the search
    # for circles see those imports as any other.
    hiding = {name for name, source in SOURCES.items() for block in guarded(source) if inner(block)}
    assert hiding <= {"__init__", "cli"}
    planted = "import typing\nif typing.TYPE_CHECKING:\n    import asr.train"
    assert [inner(block) for block in guarded(planted)] == [{"train"}]


@pytest.mark.parametrize(
    ("package", "home"), [("hydra", "config"), ("omegaconf", "config"), ("jiwer", "scoring")]
)
def test_package_has_one_importer(package: str, home: str) -> None:
    assert [name for name, source in SOURCES.items() if package in outer(source)] == [home]


def test_only_two_modules_print() -> None:
    printing = {name for name, source in SOURCES.items() if prints(source)}
    assert printing <= {"cli", "progress"}
    assert prints("def f():\n    print(1)")
    assert prints("import sys\nsys.stderr.write('')")


def test_everything_public_is_documented() -> None:
    missing = {name: list(undocumented(source)) for name, source in SOURCES.items()}
    assert {name: names for name, names in missing.items() if names} == {}
    planted = '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\n'
    assert list(undocumented(planted)) == ["A.f"]


def test_modules_are_one_plain_word() -> None:
    for name in MODULES:
        assert re.fullmatch("[a-z]+", name), name
        assert name not in FORBIDDEN_NAMES


def test_package_is_flat() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


def test_configuration_holds_values_not_objects() -> None:
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    assert files
    for path in files:
        text = path.read_text("utf-8")
        assert "_target_" not in text, path
        assert not re.search(r"\b(asr|torch)\.\w+", text), path


# The public face


def test_public_names_are_the_documented_ones() -> None:
    import asr

    assert set(asr.__all__) == PUBLIC == set(dir(asr))
    for name in PUBLIC:
        assert getattr(asr, name).__name__ == name
    with pytest.raises(AttributeError, match="Recogniser"):
        _ = asr.Recogniser


# Law 6: light inference


@pytest.mark.parametrize(
    "code",
    [
        "import asr",
        "import asr.cli",
        """
        import asr.cli, sys
        sys.argv = ["asr", "--help"]
        try:
            asr.cli.main()
        except SystemExit as end:
            assert not end.code, end.code
        """,
    ],
)
def test_import_and_help_are_light(code: str) -> None:
    heavy = "{'torch', 'torchaudio', 'numpy', 'numba', 'hydra', 'omegaconf'}"
    done = run(f"{textwrap.dedent(code)}\nimport sys\nassert not {heavy} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
    if "--help" in code:
        assert "transcribe" in done.stdout


def test_library_needs_no_torchaudio() -> None:
    """Every module loads where torchaudio cannot; test_readme trains and transcribes like that."""
    names = ", ".join(f"asr.{name}" for name in MODULES)
    done = run(f"import sys\nsys.modules['torchaudio'] = None\nimport {names}")
    assert done.returncode == 0, done.stderr
