"""The error contract of the HTTP API: OpenAI's envelope, with strings for type and code.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

OpenAI's client repeats a request after 408, 409, 429 and 5xx; where the request itself is the cause, the
answer carries ``x-should-retry: false`` so that a poisonous request is not sent three times.
"""

from collections.abc import Mapping

import msgspec

RETRY_SOON_S = 1  # the queue moves every step
RETRY_LATER_S = 5  # an engine that loads or restarts, a server that is going away


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def envelope(self) -> dict[str, object]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def encode(self) -> bytes:
        return msgspec.json.encode(self.envelope())


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the request is wrong, and would be wrong again."""
    return ApiError(400, message, code=code, param=param)


def unsupported(param: str, what: str = "") -> ApiError:
    """400: a right request that cannot be honoured; ignoring it would give another answer than asked."""
    return ApiError(
        400, f"{what or param} is not supported yet; leave it out", code="unsupported", param=param
    )


def context_too_long(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="context_length_exceeded", param=param)


def model_not_found(name: str, served: str) -> ApiError:
    message = f"the model {name!r} is not served here; this server has {served!r} (see GET /v1/models)"
    return ApiError(404, message, code="model_not_found", param="model")


def unavailable(message: str, code: str, retry_after_s: int = RETRY_LATER_S) -> ApiError:
    """503: the same request may work later, or on another replica."""
    return ApiError(503, message, kind="server_error", code=code, headers={"retry-after": str(retry_after_s)})


def deadline_exceeded(limit_s: float, began: bool) -> ApiError:
    """408. An answer that had begun was too long and would be again; one that had not was only queued."""
    where = "while its answer was being generated" if began else "before its first token"
    message = f"the request passed its limit of {limit_s:g} s {where} (--request-timeout)"
    headers = {"x-should-retry": "false"} if began else {}
    return ApiError(408, message, kind="timeout_error", code="deadline_exceeded", headers=headers)


def failed(message: str) -> ApiError:
    """500 caused by this very request; to repeat it would fail again."""
    return ApiError(
        500, message, kind="server_error", code="internal_error", headers={"x-should-retry": "false"}
    )
