"""Python programs that start in milliseconds: a server that has imported the heavy packages forks.

A new process spends most of its first seconds on importing torch. `ForkServer` starts one Python
process that has imported it, and `program` is an executable that asks the server for a fork, which
then runs a script, `-m module` or `-c code` as a new interpreter would: with the caller's
arguments, folder, environment and standard streams. Nothing of `asr` is imported beforehand.
"""

import atexit
import contextlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

PRELOADED = ("hydra", "numba", "numpy", "rich.progress", "soundfile", "torch", "torch._dynamo")
CLIENT = """\
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
request = {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
socket.send_fds(connection, [b"."], [0, 1, 2])
connection.sendall(json.dumps(request).encode() + b"\\n")
sys.exit(int(connection.makefile().readline() or 255))
"""


class ForkServer:
    """Serves `program`, which takes the arguments of `python`.

    Args:
        folder: Takes the program and its socket.
        environment: Environment of the server, in force while it imports.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "client.py").write_text(CLIENT)
        address = folder / "socket"
        client = f"{sys.executable} -IS {folder / 'client.py'} {address}"
        self.program = folder / "python"
        self.program.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        self.program.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(address)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End the server without waiting for programs that are still running."""
        self._server.communicate()


def serve(address: str) -> None:
    """Import the heavy packages and fork for every connection, until standard input ends."""
    for name in PRELOADED:
        __import__(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                os._exit(_answer(connection))
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass


def _answer(connection: socket.socket) -> int:
    """Fork again, so that somebody waits for the program and sends its exit code."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile().readline())
    process = os.fork()
    if process == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(_run(**request))
    _, status = os.waitpid(process, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status) % 256}\n".encode())
    return 0


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Run what `python *arguments` runs, and return its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        match arguments:
            case ["-c", code, *rest]:
                sys.argv = ["-c", *rest]
                sys.path[0] = ""
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case ["-m", module, *rest]:
                sys.argv = ["-m", *rest]
                sys.path[0] = folder
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case [script, *rest]:
                sys.argv = [script, *rest]
                sys.path[0] = str(Path(script).resolve().parent)
                runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # waits for the program's threads, as an interpreter does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
