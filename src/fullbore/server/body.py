"""Bytes of a request body -> a JSON object, within limits."""

import asyncio

import msgspec
from starlette.requests import ClientDisconnect, Request

from fullbore.server.errors import ApiError, invalid
from fullbore.server.limits import Limits

# Strict where Python's own is lax: no NaN or Infinity, no lone surrogates, no number that overflows.
# Of duplicate keys the last wins.
_decoder = msgspec.json.Decoder()


async def read_object(request: Request, limits: Limits) -> dict[str, object]:
    """The request's body as a JSON object.

    Raises ApiError 400 (no such JSON), 408 (it did not arrive), 413 (too large), 415 (not JSON by its type).
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        shown = kind or "none"
        message = f"content-type is {shown!r}, expected 'application/json'"
        raise ApiError(415, message, code="unsupported_media_type")
    return parse_object(await _read(request, limits))


def parse_object(body: bytes) -> dict[str, object]:
    if not body.strip():
        raise invalid("the body is empty, expected a JSON object", code="invalid_json")
    try:
        value = _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not valid UTF-8 ({error.reason})", code="invalid_json") from error
    except msgspec.MsgspecError as error:
        raise invalid(f"the body is not valid JSON ({error})", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body is nested too deeply", code="invalid_json") from error
    if not isinstance(value, dict):
        raise invalid(f"the body is a JSON {type(value).__name__}, expected an object", code="invalid_json")
    return value


async def _read(request: Request, limits: Limits) -> bytes:
    too_large = ApiError(
        413, f"the body is larger than {limits.body_bytes} bytes (--max-body-mb)", code="body_too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as error:
        message = f"the body did not arrive within {limits.body_timeout_s:g} s"
        raise ApiError(408, message, kind="timeout_error", code="body_timeout") from error
    except ClientDisconnect as error:
        raise invalid("the client went away before its body was complete", code="client_gone") from error
    return bytes(body)
