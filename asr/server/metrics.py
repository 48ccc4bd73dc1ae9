"""Figures of the server for Prometheus."""

from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from asr.server.engine import Engine

LATENCY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
REQUEST_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
KNOWN_PATHS = (
    "/stream",
    "/v1/realtime",
    "/v1/models",
    "/v1/audio/transcriptions",
    "/metrics",
    "/healthz",
    "/readyz",
    "wyoming",
)


class Metrics:
    """Counts requests, audio and latencies of one server.

    Args:
        engine: Its streams and recordings are counted when the figures are read.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "asr_requests", "Finished requests", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "asr_request_seconds",
            "Duration of requests",
            ["path"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._audio = Counter("asr_audio_seconds", "Seconds of audio", ["path"], registry=registry)
        self._factor = Histogram(
            "asr_real_time_factor",
            "Seconds of work for each second of an uploaded recording, waiting included",
            buckets=FACTOR_BUCKETS,
            registry=registry,
        )
        self._latency = Histogram(
            "asr_stream_latency_seconds",
            "Time from the arrival of samples of a live stream to their result",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._errors = Counter("asr_errors", "Requests that failed", ["path"], registry=registry)
        self._open = Gauge("asr_open_requests", "Requests in progress", registry=registry)
        streams = Gauge("asr_streams", "Live streams that are served", registry=registry)
        streams.set_function(lambda: engine.streams)
        uploads = Gauge(
            "asr_recordings", "Recordings that wait or are transcribed", registry=registry
        )
        uploads.set_function(lambda: engine.uploads)
        queue = Gauge("asr_queue", "Recordings in the queue", registry=registry)
        queue.set_function(lambda: engine.waiting)
        engine.on_latency = self._latency.observe
        self.open_requests = 0

    def begin(self) -> None:
        """Count a request that begins."""
        self.open_requests += 1
        self._open.inc()

    def end(self, scope: Any, status: int, seconds: float) -> None:
        """Count a request that ended with an HTTP status or a WebSocket's code."""
        self.open_requests -= 1
        self._open.dec()
        path = next((known for known in KNOWN_PATHS if scope["path"].startswith(known)), "other")
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if 400 <= status < 1000 or status > 1001:
            self._errors.labels(path).inc()
        audio = scope["state"]["note"].get("audio_seconds", 0.0)
        self._audio.labels(path).inc(audio)
        if audio and path == "/v1/audio/transcriptions":
            self._factor.observe(seconds / audio)

    def render(self) -> tuple[bytes, str]:
        """The figures, and their media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
