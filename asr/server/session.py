"""The settings of a Realtime session: what a client may ask for, checked field by field.

Source: https://platform.openai.com/docs/api-reference/realtime-client-events/session/update
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from asr.endpoint import EndpointConfig
from asr.errors import quote
from asr.server.config import ServerConfig
from asr.server.errors import RequestError
from asr.server.files import check_language, check_model
from asr.stream import HIGHEST_RATE, LOWEST_RATE

LOGPROBS = "item.input_audio_transcription.logprobs"
ENCODINGS = {"audio/pcm": "s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
RATES = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}
THRESHOLD, PADDING_MS = 0.5, 300  # OpenAI's own; endpoints need neither
LONGEST_SILENCE_MS = 60_000
INPUT = "session.audio.input"


@dataclass(frozen=True)
class SessionSettings:
    """What a client has chosen.

    Attributes:
        kind: The audio format, one of `ENCODINGS`.
        rate: Samples per second.
        model: Name of the model, as the client calls it.
        prompt: Words and phrases to expect, see `files.parse_hotwords`.
        keywords: More of them.
        silence_ms: Silence that ends an item; None: the client commits items.
        logprobs: Whether log-probabilities of words are wanted.
    """

    kind: str
    rate: int
    model: str
    prompt: str
    keywords: tuple[str, ...]
    silence_ms: int | None
    logprobs: bool

    @property
    def encoding(self) -> str:
        """The name of the audio format in `socket.ENCODINGS`."""
        return ENCODINGS[self.kind]

    @property
    def hotwords(self) -> str:
        """All words and phrases to expect."""
        return "\n".join([self.prompt, *self.keywords])

    def needs_new_stream(self, other: "SessionSettings") -> bool:
        """Whether the change to other settings needs another live stream."""
        return replace(self, model=other.model, logprobs=other.logprobs) != other

    def endpoint(self, config: ServerConfig) -> EndpointConfig | None:
        """The rule that ends segments: the server's own, with the client's silence."""
        if self.silence_ms is None:
            return config.endpoint
        return replace(config.endpoint or EndpointConfig(), silence=self.silence_ms / 1000)

    def to_dict(self, identity: str, config: ServerConfig) -> dict[str, Any]:
        """The session as clients see it."""
        form: dict[str, Any] = {"type": self.kind}
        if self.kind == "audio/pcm" or self.rate != RATES[self.kind]:
            form["rate"] = self.rate
        transcription: dict[str, Any] = {
            "model": self.model,
            "language": config.language,
            "prompt": self.prompt,
        }
        if self.keywords:
            transcription["keywords"] = list(self.keywords)
        detection = self.silence_ms is not None and {
            "type": "server_vad",
            "threshold": THRESHOLD,
            "prefix_padding_ms": PADDING_MS,
            "silence_duration_ms": self.silence_ms,
        }
        return {
            "type": "transcription",
            "id": identity,
            "object": "realtime.transcription_session",
            "audio": {
                "input": {
                    "format": form,
                    "noise_reduction": None,
                    "transcription": transcription,
                    "turn_detection": detection or None,
                }
            },
            "include": [LOGPROBS] if self.logprobs else None,
        }


def default_settings(config: ServerConfig) -> SessionSettings:
    """The settings of a client that chooses nothing."""
    return SessionSettings(
        "audio/pcm", RATES["audio/pcm"], config.model, "", (), _default_silence(config), False
    )


def update_settings(
    session: Any, settings: SessionSettings, config: ServerConfig
) -> SessionSettings:
    """The settings after `session.update`, which changes only the fields that it has.

    Args:
        session: The field `session` of the event.
        settings: The settings until now.
        config: The server's settings.

    Raises:
        RequestError: If a field is unknown, or its value cannot be used.
    """
    session = check_fields(session, "session", ("type", "audio", "include"))
    if session.get("type") != "transcription":
        refuse("session.type", session.get("type"), "must be transcription")
    if "include" in session:
        include = session["include"] or []
        if not isinstance(include, list) or any(name != LOGPROBS for name in include):
            refuse("session.include", include, f"may contain {LOGPROBS} only")
        settings = replace(settings, logprobs=bool(include))
    audio = check_fields(session.get("audio", {}), "session.audio", ("input",))
    given = check_fields(
        audio.get("input", {}),
        INPUT,
        ("format", "noise_reduction", "transcription", "turn_detection"),
    )
    if given.get("noise_reduction") is not None:
        refuse(f"{INPUT}.noise_reduction", given["noise_reduction"], "must be null")
    if "format" in given:
        settings = _choose_format(given["format"], settings)
    if "transcription" in given:
        settings = _choose_transcription(given["transcription"], settings, config)
    if "turn_detection" in given:
        settings = _choose_detection(given["turn_detection"], settings, config)
    return settings


def check_fields(value: Any, path: str, known: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has known fields only. Raises RequestError."""
    if not isinstance(value, dict):
        refuse(path, value, "must be an object")
    for name in value:
        if name not in known:
            where = f"{path}.{name[:80]}"
            raise RequestError(
                f"the parameter {quote(where)} is not supported; leave it out",
                param=where,
                code="unknown_parameter",
            )
    return value


def refuse(path: str, value: Any, rule: str) -> NoReturn:
    """Raise RequestError for a value that cannot be used."""
    raise RequestError(
        f"{path} is {quote(str(value))}; it {rule}", param=path, code="invalid_value"
    )


def _choose_format(value: Any, settings: SessionSettings) -> SessionSettings:
    path = f"{INPUT}.format"
    value = check_fields(value, path, ("type", "rate"))
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in ENCODINGS:
        refuse(f"{path}.type", kind, f"must be one of {', '.join(ENCODINGS)}")
    rate = value.get("rate", RATES[kind])
    if not _is_whole(rate) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        rule = f"must be a whole number from {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
        refuse(f"{path}.rate", rate, rule)
    return replace(settings, kind=kind, rate=rate)


def _choose_transcription(
    value: Any, settings: SessionSettings, config: ServerConfig
) -> SessionSettings:
    path = f"{INPUT}.transcription"
    known = ("model", "language", "languages", "prompt", "keywords", "delay")
    value = check_fields(value, path, known)
    for name in ("model", "language", "prompt"):
        if not isinstance(value.get(name), str | None):
            refuse(f"{path}.{name}", value[name], "must be text")
    for name in ("languages", "keywords"):
        texts = value.get(name)
        if texts is not None and not (
            isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        ):
            refuse(f"{path}.{name}", texts, "must be a list of texts")
    if value.get("delay") is not None:
        refuse(f"{path}.delay", value["delay"], "must be null, because the server decides on it")
    try:
        check_model(value.get("model"), config)
        for language in (value.get("language"), *(value.get("languages") or [])):
            check_language(language, config)
    except RequestError as error:
        raise RequestError(str(error), error.status, f"{path}.{error.param}", error.code) from None
    return replace(
        settings,
        model=value.get("model") or settings.model,
        prompt=(value["prompt"] or "") if "prompt" in value else settings.prompt,
        keywords=tuple(value["keywords"] or ()) if "keywords" in value else settings.keywords,
    )


def _choose_detection(
    value: Any, settings: SessionSettings, config: ServerConfig
) -> SessionSettings:
    if value is None:
        return replace(settings, silence_ms=None)
    path = f"{INPUT}.turn_detection"
    neutral: dict[str, tuple[Any, ...]] = {
        "threshold": (THRESHOLD,),
        "prefix_padding_ms": (PADDING_MS,),
        "create_response": (False,),
        "interrupt_response": (False,),
        "idle_timeout_ms": (),
    }
    value = check_fields(value, path, ("type", "silence_duration_ms", *neutral))
    if value.get("type") != "server_vad":
        refuse(f"{path}.type", value.get("type"), "must be server_vad, or turn_detection null")
    for name, values in neutral.items():
        if value.get(name) not in (None, *values):
            allowed = " or ".join(str(v).lower() for v in (*values, "null"))
            refuse(f"{path}.{name}", value[name], f"must be {allowed}, because it has no effect")
    silence = value.get("silence_duration_ms")
    if silence is None:
        silence = settings.silence_ms or _default_silence(config) or _silence_of(EndpointConfig())
    elif not _is_whole(silence) or not 0 < silence <= LONGEST_SILENCE_MS:
        rule = f"must be a whole number from 1 to {LONGEST_SILENCE_MS:,}"
        refuse(f"{path}.silence_duration_ms", silence, rule)
    return replace(settings, silence_ms=silence)


def _default_silence(config: ServerConfig) -> int | None:
    return _silence_of(config.endpoint) if config.endpoint else None


def _silence_of(endpoint: EndpointConfig) -> int:
    return max(1, round(1000 * endpoint.silence))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
