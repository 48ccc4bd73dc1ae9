"""The house as docs/architecture.md draws it: the source read with `ast`, and live imports."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "asr"

# Lowest first: a module imports only what stands before it.
ORDER = """
    errors defaults progress files compiled runtime.device text
    audio.recording audio.parts audio.section audio.messages audio.mp3 audio.flac audio.ogg audio.chunks
    audio.media audio.containers audio.waveform audio.prefetch
    features lstm encoder model
    lm.ngrams lm.arpa lm.binary lm.estimation lm.model lm.mixture
    scoring significance
    decoder.hypothesis decoder.config decoder.greedy decoder.lexicon decoder.hotwords decoder.search
    decoder.beam decoder.build decoder.alignment decoder.confidence decoder.tuning
    release checkpoint
    endpoint stream recognizer formats
    data.augment data.planning data.manifest data.corpora data.index data.selection data.voices
    data.synthesis
    evaluation
    runtime.signals runtime.slurm runtime.distributed
    data.loading
    training.config training.loss training.optimizer training.trainer training.interruption
    training.metrics training.curves training.diagnosis training.preparation training.resume
    training.validation
    training.run
    experiment recipe
    doctor.findings doctor.requirements doctor.sound doctor.measurements doctor.manifests
    doctor.recordings doctor.texts doctor.rates doctor.duplicates doctor.summary doctor.cost
    doctor.examination doctor.report
    server.config server.live server.engine server.errors server.journal server.metrics server.files
    server.socket server.session server.realtime server.wyoming server.app server.serving
    cli.options cli.inputs cli.output
    cli.transcribe cli.stream cli.align cli.evaluate cli.score cli.compare cli.doctor cli.tune
    cli.average cli.release cli.lm cli.info cli.train cli.serve cli.main
""".split()
FORBIDDEN_NAMES = {"base", "common", "core", "helper", "helpers", "misc", "util", "utils"}
# Numba kernels: a kernel and what it calls share a module, and a loop over plain arrays is one
# function, because passing its state on costs time (measured in `_read_frames`).
LONG_MODULES = {"decoder.search", "lm.arpa"}
LONG_FUNCTIONS = {
    "decoder.search": {"_extend", "_read_frames", "_select"},
    "lm.arpa": {"_parse_ngrams"},
}
PUBLIC = """
    AcousticModel AsrError AugmentConfig Context DataConfig DecoderConfig EncoderConfig EndpointConfig
    Evaluation Experiment FeaturesConfig Hypothesis LanguageModel OperatingPoint Recognizer Report
    RuntimeConfig Stream Track TrainingConfig Utterance Vocabulary Word __version__ evaluate load_audio
    normalize read_manifest read_sentences score transcribe write_manifest
""".split()


def name_of(path: Path) -> str:
    """The dotted name of a module below asr: "audio.mp3"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


SOURCES = {name_of(path): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
MODULES = {
    name: source
    for name, source in SOURCES.items()
    if not name.endswith("__init__") and name != "__main__"
}


def imported(source: str) -> set[str]:
    """Every module that `source` imports anywhere, functions included, by its full dotted name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                home = ".".join(filter(None, ["asr" if level else "", module]))
                # A package has nothing to give but its modules: `from asr.lm import arpa`.
                is_package = home == "asr" or home.removeprefix("asr.") in PACKAGES
                modules = {alias.name for alias in names} - {"__version__"}
                found |= {f"{home}.{module}" for module in modules} if is_package else {home}
            case ast.Constant(value=str(text)) if text.removeprefix("asr.") in ORDER:
                if text.startswith("asr."):
                    found.add(text)  # what import_module is given
    return found


def inner(source: str) -> set[str]:
    """The modules of asr that `source` imports."""
    return {name.removeprefix("asr.") for name in imported(source) if name.startswith("asr.")}


def outer(source: str) -> set[str]:
    """The top-level packages that `source` imports."""
    return {name.split(".")[0] for name in imported(source)}


def misplaced(sources: dict[str, str]) -> list[str]:
    """What breaks the order, one line each."""
    wrong = []
    for name, source in sources.items():
        if name not in ORDER:
            wrong.append(f"{name} has no place in ORDER")
            continue
        for target in sorted(inner(source)):
            if target not in ORDER:
                wrong.append(f"{name} imports asr.{target}, which has no place in ORDER")
            elif ORDER.index(target) >= ORDER.index(name):
                wrong.append(f"{name} imports {target}, which does not stand before it")
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


def length_of(function: ast.FunctionDef) -> int:
    """The number of lines of a function, without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return lines


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


# The order of modules


def test_modules_import_only_what_stands_before_them() -> None:
    assert misplaced(MODULES) == []


def test_the_order_lists_every_module_once() -> None:
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize(
    "planted",
    [
        "import asr.training.run",
        "from asr.training.run import train",
        "from asr.training import run",
        "from .training.run import train",
        "from .training import run",
        "def late():\n    from asr.training.run import train",
        "import importlib\nimportlib.import_module('asr.training.run')",
        "import typing\nif typing.TYPE_CHECKING:\n    import asr.training.run",
    ],
)
def test_planted_upward_import_is_found(planted: str) -> None:
    assert misplaced({"features": planted}) == [
        "features imports training.run, which does not stand before it"
    ]


def test_planted_unknown_modules_are_found() -> None:
    assert misplaced({"extra": ""}) == ["extra has no place in ORDER"]
    assert misplaced({"cli.main": "from asr.extra import x"}) == [
        "cli.main imports asr.extra, which has no place in ORDER"
    ]
    assert misplaced({"model": "from asr.features import LogMel\nimport asr.errors"}) == []


def test_packages_hold_a_docstring_and_modules_only() -> None:
    for package in PACKAGES:
        body = ast.parse(SOURCES[f"{package}.__init__"]).body
        assert [type(node) for node in body] == [ast.Expr], package


def test_library_imports_nothing_from_outside() -> None:
    for name, source in SOURCES.items():
        assert not outer(source) & {"recipes", "scripts", "tests"}, name


# Order inside the house


def test_only_the_command_line_delays_imports_of_types() -> None:
    # These modules must load nothing heavy, and name their types like this (law 6); `misplaced`
    # sees such imports as any other.
    hiding = {name for name, source in SOURCES.items() for block in guarded(source) if inner(block)}
    assert all(name == "__init__" or name.startswith("cli.") for name in hiding)
    planted = "import typing\nif typing.TYPE_CHECKING:\n    import asr.recipe"
    assert [inner(block) for block in guarded(planted)] == [{"recipe"}]


@pytest.mark.parametrize(
    ("package", "home"), [("hydra", "recipe"), ("omegaconf", "recipe"), ("jiwer", "scoring")]
)
def test_package_has_one_importer(package: str, home: str) -> None:
    assert [name for name, source in SOURCES.items() if package in outer(source)] == [home]


def test_every_command_has_its_module() -> None:
    from asr.cli.main import COMMANDS

    shared = {"main", "options", "inputs", "output"}
    modules = {name.removeprefix("cli.") for name in MODULES if name.startswith("cli.")}
    assert modules - shared == set(COMMANDS)
    for name in COMMANDS:
        functions = {
            node.name: [argument.arg for argument in node.args.args]
            for node in ast.parse(MODULES[f"cli.{name}"]).body
            if isinstance(node, ast.FunctionDef)
        }
        assert functions["declare"] == ["command"], name
        assert functions["run"] == ["arguments"], name


def test_only_the_command_line_parses_arguments() -> None:
    importers = {name for name, source in SOURCES.items() if "argparse" in outer(source)}
    assert all(name.startswith("cli.") for name in importers)


def test_only_two_modules_print() -> None:
    printing = {name for name, source in SOURCES.items() if prints(source)}
    assert printing <= {"cli.inputs", "cli.main", "cli.stream", "progress"}
    assert prints("def f():\n    print(1)")
    assert prints("import sys\nsys.stderr.write('')")


def test_everything_public_is_documented() -> None:
    missing = {name: list(undocumented(source)) for name, source in SOURCES.items()}
    assert {name: names for name, names in missing.items() if names} == {}
    planted = '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\n'
    assert list(undocumented(planted)) == ["A.f"]


def test_public_classes_and_functions_have_arguments_and_examples() -> None:
    """`test_examples` runs the examples. Errors take a message only, so they have no arguments."""
    import asr

    for name in set(PUBLIC) - {"__version__", "AsrError"}:
        value = getattr(asr, name)
        text = inspect.getdoc(value) or ""
        assert re.search(r"^(Args|Attributes):$", text, re.MULTILINE), name
        assert re.search(r"^Example:\n    >>> ", text, re.MULTILINE), name
        if inspect.isfunction(value) and value.__annotations__["return"] is not None:
            assert re.search(r"^Returns:$", text, re.MULTILINE), name


def test_modules_and_functions_are_short() -> None:
    for name, source in SOURCES.items():
        assert name in LONG_MODULES or len(source.splitlines()) < 500, name
        long = {
            node.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef) and length_of(node) >= 60
        }
        assert long <= LONG_FUNCTIONS.get(name, set()), name


def test_modules_are_one_plain_word() -> None:
    for name in MODULES:
        for word in name.split("."):
            assert re.fullmatch("[a-z0-9]+", word), name
            assert word not in FORBIDDEN_NAMES


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

    assert asr.__all__ == sorted(PUBLIC) == dir(asr)
    for name in PUBLIC:
        assert name.startswith("__") or getattr(asr, name).__name__ == name
    with pytest.raises(AttributeError, match="Recogniser"):
        _ = asr.Recogniser


# Law 6: light inference

HEAVY = set(
    "torch torchaudio numpy numba hydra omegaconf scipy librosa soundfile soxr jiwer rich".split()
)


@pytest.mark.parametrize(
    "code",
    [
        "import asr",
        "import asr.cli.main",
        """
        import asr.cli.main, sys
        sys.argv = ["asr", "--help"]
        try:
            asr.cli.main.main()
        except SystemExit as end:
            assert not end.code, end.code
        """,
    ],
)
def test_import_and_help_are_light(code: str) -> None:
    done = run(f"{textwrap.dedent(code)}\nimport sys\nassert not {HEAVY} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
    if "--help" in code:
        assert "transcribe" in done.stdout


def test_help_of_every_command_is_light() -> None:
    """One process for all of them: what any of them loads stays loaded."""
    from asr.cli.main import COMMANDS

    commands = [*COMMANDS, "lm train", "lm info", "lm perplexity", "lm convert"]
    done = run(
        f"""
        import sys
        from asr.cli.main import main
        for command in {commands}:
            try:
                main([*command.split(), "--help"])
            except SystemExit as end:
                assert not end.code
            loaded = {HEAVY} & set(sys.modules)
            assert not loaded, (command, loaded)
        """
    )
    assert done.returncode == 0, done.stderr
    for command in commands:
        assert f"usage: asr {command} " in done.stdout


def test_library_needs_no_torchaudio() -> None:
    """Every module loads where torchaudio cannot; test_readme trains and transcribes like that."""
    names = ", ".join(f"asr.{name}" for name in MODULES)
    done = run(f"import sys\nsys.modules['torchaudio'] = None\nimport {names}")
    assert done.returncode == 0, done.stderr
