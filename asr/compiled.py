"""Compiling functions to machine code with numba, and the folder that caches it."""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

# The modules that define compiled functions, or types that appear in their signatures.
COMPILED = (
    "decoder/hotwords decoder/lexicon decoder/search lm/arpa lm/mixture lm/model lm/ngrams".split()
)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile `function` at its first call, and cache the machine code on disk."""
    return _compile(function, {})


def compiled_core(function: _Function) -> _Function:
    """Compile `function` without numba's runtime: it cannot create arrays or count references.

    Use this for inner-loop functions, in which atomic reference counting can cost more than the
    computation.
    """
    return _compile(function, {"_nrt": False})


def _compile(function: _Function, options: dict[str, Any]) -> _Function:
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = _code_folder(before)
    try:  # njit reads the setting only while it creates the dispatcher
        return cast(_Function, numba.njit(cache=True, nogil=True, **options)(function))
    finally:
        settings.CACHE_DIR = before


@cache
def _code_folder(chosen: str) -> str:
    """Return the cache folder, in `chosen` (NUMBA_CACHE_DIR) or beside the package.

    The cached code of a function includes the functions it calls in other files, but numba checks
    only its own file for changes. A folder per state of all these files prevents stale code. If the
    folder is not writable, numba falls back to the user's cache folder.
    """
    package = Path(__file__).parent
    sources = b"".join(name.encode() + (package / f"{name}.py").read_bytes() for name in COMPILED)
    state = hashlib.blake2b(sources, digest_size=8).hexdigest()
    return os.path.join(chosen or package / "__pycache__", f"asr-{state}")
