"""Writing a file so that whoever reads it sees the old one or the new one, whole."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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
        # Not by tempfile, whose files only their owner may read, whatever the umask says.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
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
