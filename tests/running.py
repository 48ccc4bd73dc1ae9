"""A server in this process, in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from signals import make_model

from asr.recognizer import Recognizer
from asr.server.app import make_app
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.serving import Server, listen
from asr.server.wyoming import WyomingDoor
from asr.text import Vocabulary


@contextmanager
def running(recognizer: Recognizer | None = None, **settings: Any) -> Iterator[SimpleNamespace]:
    """Serve a recognizer (default: one that writes many letters) with settings of `ServerConfig`.

    Yields its port, url, ws_url, engine, recognizer and app, and the port of Wyoming.
    """
    recognizer = recognizer or Recognizer(make_model("latency_controlled"), Vocabulary.english())
    config = ServerConfig(port=0, **settings)
    engine = Engine(recognizer, config.streams, config.uploads, threads=2)
    app = make_app(engine, config)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    wyoming = listen("127.0.0.1", 0)
    server = Server(app, config, WyomingDoor(wyoming))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield SimpleNamespace(
            port=port,
            url=f"http://127.0.0.1:{port}",
            ws_url=f"ws://127.0.0.1:{port}",
            engine=engine,
            recognizer=recognizer,
            app=app,
            wyoming_port=wyoming.getsockname()[1],
        )
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        wyoming.close()
        engine.stop()
