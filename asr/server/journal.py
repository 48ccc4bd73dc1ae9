"""The log of the server: a line of JSON for each request."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("asr.server")


def write_record(scope: Mapping[str, Any], status: int, seconds: float) -> None:
    """Log a request that ended.

    Args:
        scope: The request as ASGI describes it; its state has the `id` and the `note` of the door.
        status: An HTTP status or a WebSocket's code.
        seconds: How long it took.
    """
    client = scope.get("client")
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": scope["state"]["id"],
        "client": client[0] if client else None,
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 3),
        **scope["state"]["note"],
    }
    log.info(json.dumps(record, ensure_ascii=True))
