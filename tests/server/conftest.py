"""A server in this process, in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import uvicorn

from signals import make_model

from asr.text import Vocabulary
from asr.recognizer import Recognizer
from asr.server.app import make_app
from asr.server.config import ServerConfig
from asr.server.engine import Engine
from asr.server.serving import listen


@pytest.fixture(scope="session")
def server() -> Iterator[SimpleNamespace]:
    recognizer = Recognizer(make_model("latency_controlled"), Vocabulary.english())
    engine = Engine(recognizer, threads=2)
    config = ServerConfig(port=0)
    app = make_app(engine, config)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    uv = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="websockets-sansio"))
    thread = threading.Thread(target=lambda: asyncio.run(uv.serve(sockets=[sock])))
    thread.start()
    while not uv.started:
        time.sleep(0.01)
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", ws_url=f"ws://127.0.0.1:{port}", engine=engine, recognizer=recognizer, app=app)
    uv.should_exit = True
    thread.join()
    engine.stop()
