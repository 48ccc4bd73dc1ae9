"""Headless Chromium, driven through the DevTools protocol."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SECONDS = 60.0  # how long to wait for anything
KEYS = {  # what a key types, and its code on Windows, which Chromium wants to know
    "Enter": ("\r", 13),
    "Tab": ("", 9),
    "Escape": ("", 27),
    " ": (" ", 32),
    "ArrowLeft": ("", 37),
    "ArrowRight": ("", 39),
    "Home": ("", 36),
    "End": ("", 35),
}


@contextmanager
def browsing(folder: Path, microphone: Path) -> Iterator["Browser"]:
    """A browser whose microphone hears a wav file, once, whenever it is opened.

    Its profile and its downloads are in `folder`, which is empty before.
    """
    assert CHROMIUM
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--mute-audio",
        "--remote-debugging-port=0",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        f"--user-data-dir={folder / 'profile'}",
    ]
    process = subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = find_address(folder / "profile" / "DevToolsActivePort", process)
        with connect(address, max_size=None) as connection:
            (folder / "downloads").mkdir()
            browser = Browser(connection, folder / "downloads")
            yield browser
            browser.call("Browser.close")
        process.wait(10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def find_address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of a browser that starts, which writes it into a file of its profile."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "Chromium ended"
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")


class Browser:
    """A browser that runs; see `browsing`.

    Args:
        connection: The WebSocket of its DevTools.
        downloads: The folder of its downloads.
    """

    def __init__(self, connection: ClientConnection, downloads: Path) -> None:
        self._socket = connection
        self.downloads = downloads
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(
        self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """Call a method of the protocol; what happens meanwhile is added to `events`."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters or {}}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(SECONDS))
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def open(self, address: str, width: int = 1280, height: int = 800) -> "Tab":
        """Open an address in a new tab."""
        return Tab(self, address, width, height)


class Tab:
    """A tab with a context of its own, so that no tab sees the storage of another."""

    def __init__(self, browser: Browser, address: str, width: int, height: int) -> None:
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        behavior = {"behavior": "allow", "downloadPath": str(browser.downloads)}
        browser.call("Browser.setDownloadBehavior", behavior | {"browserContextId": self._context})
        target = {"url": "about:blank", "browserContextId": self._context}
        identity = browser.call("Target.createTarget", target)["targetId"]
        attachment = {"targetId": identity, "flatten": True}
        self._session = browser.call("Target.attachToTarget", attachment)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Page.navigate", {"url": address})
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a method of the protocol."""
        return self._browser.call(method, parameters, self._session)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or what its promise becomes."""
        parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", parameters)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"never true: {expression}; {self.text('body')}"
            time.sleep(0.03)
        return value

    def text(self, selector: str) -> str:
        """What can be read in an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def set_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a file input."""
        element = {"expression": f"document.querySelector({json.dumps(selector)})"}
        identity = self.call("Runtime.evaluate", element)["result"]["objectId"]
        files = {"files": [str(path) for path in paths], "objectId": identity}
        self.call("DOM.setFileInputFiles", files)

    def drop(self, selector: str, *paths: Path) -> None:
        """Drop files on an element."""
        x, y = self.locate(selector)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    def click(self, selector: str, part: float = 0.5) -> None:
        """Click on an element, at a part of its width."""
        x, y = self.locate(selector, part)
        where = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, **where})

    def press(self, key: str) -> None:
        """Press a key of `KEYS`."""
        text, code = KEYS[key]
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **event, "text": text})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def type(self, text: str) -> None:
        """Type text into the element that has the focus."""
        self.call("Input.insertText", {"text": text})

    def locate(self, selector: str, part: float = 0.5) -> tuple[float, float]:
        """A point of an element in the viewport, after scrolling to it."""
        element = f"document.querySelector({json.dumps(selector)})"
        box = self.evaluate(
            f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}}), "
            f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())"
        )
        assert box[2] * box[3] > 0, f"{selector} cannot be seen"
        return box[0] + part * box[2], box[1] + 0.5 * box[3]

    def resize(self, width: int, height: int, is_mobile: bool = False) -> None:
        """Change the size of the viewport."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile}
        self.call("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", {"features": [feature]})

    def photograph(self, path: Path) -> None:
        """Save a picture of the viewport."""
        data = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(data))

    def has_seen(self, method: str) -> bool:
        """Whether an event of the protocol has happened in the tab."""
        self.evaluate("0")  # so that earlier events have arrived
        events = self._browser.events
        return any((e["method"], e.get("sessionId")) == (method, self._session) for e in events)

    def problems(self) -> list[str]:
        """Errors that the tab's scripts threw or that its console shows, such as breaches of policy."""
        self.evaluate("0")  # so that earlier events have arrived
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif (
                event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"
            ):
                found.append(event["params"]["entry"]["text"])
        return found

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.disposeBrowserContext", {"browserContextId": self._context})
