"""Writing a file so that whoever reads it sees the old one or the new one, whole."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from asr.errors import FileError


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to the disk, and rename it.

    Missing folders are made. Raises FileError where any of this fails; what stood at `path` before
    is then untouched.
    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            write(cast(IO[bytes], file))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FileError(
            f"{target} could not be written ({reason}); free some space or choose another folder, "
            "the file that stood there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
