"""Two processes that stay for many tests, because starting one takes seconds.

`Pair.run` does what `asr.runtime.distributed.launch` does for two processes, in processes that have
already imported torch. Tests of `launch` itself start their own.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

SECONDS = 120  # after which a process is considered to hang


class Pair:
    """Two processes that meet anew, as rank 0 and 1, for each call of `run`.

    They are not among the children that `multiprocessing` knows, because tests count those.
    """

    def __init__(self) -> None:
        self._pipes: list[Connection] = []
        self._processes = []
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with Listener() as listener:
            for rank in range(2):
                command = [sys.executable, __file__, str(listener.address), str(rank)]
                self._processes.append(subprocess.Popen(command, env=environment))
                self._pipes.append(listener.accept())

    def run(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Run `function(argument)` in both processes; returns the result of rank 0.

        An exception of rank 0, or else of rank 1, is raised here.
        """
        with socket.socket() as unused:
            unused.bind(("localhost", 0))
            port = unused.getsockname()[1]
        for pipe in self._pipes:
            pipe.send((function, argument, port))
        answers = []
        for pipe in self._pipes:
            assert pipe.poll(SECONDS), "a process does not answer"
            answers.append(pipe.recv())
        for _, error in answers:
            if error is not None:
                raise error
        return answers[0][0]

    def close(self) -> None:
        """End both processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.kill()
            process.wait()


def serve(pipe: Connection, rank: str) -> None:
    """Run the functions that arrive until the pipe is closed."""
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
    }
    while True:
        try:
            function, argument, port = pipe.recv()
        except EOFError:
            return
        os.environ["MASTER_PORT"] = str(port)
        try:
            pipe.send((function(argument), None))
        except Exception as error:
            pipe.send((None, error))


if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
        serve(client, sys.argv[2])
