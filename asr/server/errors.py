"""Errors as clients see them, in the shape of OpenAI's interface."""

from typing import Any

from asr.errors import AsrError
from asr.server.engine import TooLongError
from asr.server.live import OverloadError

RETRY_SECONDS = 2
"""After how many seconds a client that was refused for lack of room should try again."""


class RequestError(AsrError):
    """A request that is refused.

    Args:
        message: What is wrong and what to do.
        status: The HTTP status.
        param: The field of the request that is wrong.
        code: A machine-readable error code.

    Example:
        >>> RequestError("no such model", 404, "model", "model_not_found").to_dict()["error"]["code"]
        'model_not_found'
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_dict(self) -> dict[str, Any]:
        """The body of the response."""
        if self.status >= 500:
            kind = "server_error"
        elif self.status == 401:
            kind = "authentication_error"
        elif self.status == 429:
            kind = "rate_limit_error"
        else:
            kind = "invalid_request_error"
        message = str(self).removesuffix(".") + "."
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        if self.status in (429, 503):
            return {"Retry-After": str(RETRY_SECONDS)}
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {}


def to_request_error(error: AsrError) -> RequestError:
    """The refusal of a request that met an error: a client error unless its type says otherwise."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, OverloadError):
        return RequestError(str(error), 429, code="rate_limit_exceeded")
    if isinstance(error, TooLongError):
        return RequestError(str(error), 413, "file", "recording_too_long")
    return RequestError(str(error))
