"""Functions compiled to machine code by numba, and the folder that keeps it."""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

COMPILED = (
    "decoder/hotwords",
    "decoder/lexicon",
    "decoder/search",
    "lm/arpa",
    "lm/model",
    "lm/ngrams",
)
"""The modules with compiled functions, or with types that these take."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """`function` as machine code, compiled at its first call and then kept on disk."""
    return _compile(function, {})


def compiled_core(function: _Function) -> _Function:
    """`function` as machine code that neither makes arrays nor counts references to them.

    For innermost functions: counting, which must be atomic, can take longer than their work.
    """
    return _compile(function, {"_nrt": False})


def _compile(function: _Function, options: dict[str, Any]) -> _Function:
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = _code_folder(before)
    try:  # the folder is looked up here, once and for all
        return cast(_Function, numba.njit(cache=True, nogil=True, **options)(function))
    finally:
        settings.CACHE_DIR = before


@cache
def _code_folder(chosen: str) -> str:
    """Where machine code is kept: in `chosen` (NUMBA_CACHE_DIR), or beside the package.

    numba looks for changes in a function's own file only, but holds the code of what it calls in
    other files too: a folder for each state of all these files keeps old code from being used.
    Where the folder cannot be written, numba goes on to one of the user's.
    """
    package = Path(__file__).parent
    sources = b"".join(name.encode() + (package / f"{name}.py").read_bytes() for name in COMPILED)
    state = hashlib.blake2b(sources, digest_size=8).hexdigest()
    return os.path.join(chosen or package / "__pycache__", f"asr-{state}")
