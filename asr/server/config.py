"""The settings of the server."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from asr.defaults import STREAM_LATENCY_MS
from asr.endpoint import EndpointConfig
from asr.errors import ConfigError, check_number, quote

MODEL_NAME = "asr-english"
"""Name of the bundled model for clients that choose one."""

SHORTEST_KEY = 16  # characters of a key, below which it could be guessed


@dataclass
class ServerConfig:
    """Where the server listens, whom it serves, and how much it accepts.

    Args:
        host: Address to listen on; the default accepts connections of this machine only.
        port: TCP port of HTTP and WebSocket; 0 chooses a free one.
        wyoming_port: TCP port of the Wyoming protocol; None leaves it out.
        keys: Accepted keys; if there are none, no key is required.
        model: Name of the model for clients that choose one.
        language: Language that it knows, as a code of two letters.
        card: Its description in Markdown.
        latency_ms: Latency of live streams that choose none.
        endpoint: Rule that ends the segments of live streams; None for a single segment.
        streams: Most live streams at a time.
        uploads: Most recordings that wait or are transcribed at a time.
        upload_mb: Largest request body in megabytes.
        upload_seconds: Longest recording.
        idle_seconds: How long a client may send nothing before it is disconnected.
        stop_seconds: How long running requests may last after SIGTERM.
        log_texts: Whether the log contains what was recognized.

    Raises:
        ConfigError: If a value is out of range.

    Example:
        >>> ServerConfig(port=8080).is_loopback
        True
    """

    host: str = "127.0.0.1"
    port: int = 8080
    wyoming_port: int | None = None
    keys: tuple[str, ...] = ()
    model: str = MODEL_NAME
    language: str = "en"
    card: str = ""
    latency_ms: float = STREAM_LATENCY_MS
    endpoint: EndpointConfig | None = None
    streams: int = 200
    uploads: int = 64
    upload_mb: float = 500.0
    upload_seconds: float = 6 * 3600.0
    idle_seconds: float = 60.0
    stop_seconds: float = 30.0
    log_texts: bool = False

    def __post_init__(self) -> None:
        check_number("port", self.port, 0, 65_535, whole=True)
        if self.wyoming_port is not None:
            check_number("wyoming_port", self.wyoming_port, 0, 65_535, whole=True)
        check_number("streams", self.streams, 1, 100_000, whole=True)
        check_number("uploads", self.uploads, 1, 100_000, whole=True)
        for name in ("upload_mb", "upload_seconds", "idle_seconds", "stop_seconds"):
            check_number(name, getattr(self, name), 0.001, 1e6)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_keys(path: Path) -> tuple[str, ...]:
    """Read the keys of clients: one per line; empty lines and lines that begin with # are ignored.

    Raises:
        ConfigError: If the file cannot be read, has no key, or a key is short or contains a space.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            f"the keys in {path} cannot be read ({reason}); name a text file"
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{path} contains no key; write one per line")
    for number, key in enumerate(keys, start=1):
        if not re.fullmatch(rf"[A-Za-z0-9._~-]{{{SHORTEST_KEY},}}", key):
            raise ConfigError(
                f"key {number} of {path} is invalid; use at least {SHORTEST_KEY} characters from "
                "A-Z, a-z, 0-9 and -._~, as `openssl rand -hex 24` prints"
            )
    return keys


def name_of(checkpoint: str, bundled: str) -> str:
    """The name of a model for clients: of its folder or file, or that of the bundled model."""
    if checkpoint == bundled:
        return MODEL_NAME
    name = Path(checkpoint).name.removesuffix(".pt")
    if not name:
        raise ConfigError(
            f"{quote(checkpoint)} does not name a model; give the path of a checkpoint or a folder"
        )
    return name
