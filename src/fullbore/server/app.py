"""The routes."""

from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from fullbore import __version__
from fullbore.server.auth import Keys
from fullbore.server.body import read_object
from fullbore.server.errors import RETRY_LATER_S, ApiError, failed, model_not_found
from fullbore.server.guard import Guard, HostCheck, KeyCheck, is_loopback
from fullbore.server.metrics import CONTENT_TYPE
from fullbore.server.service import Service, ignored_header


def create_app(service: Service, keys: Keys) -> ASGIApp:
    """The whole HTTP surface: host check, CORS, keys, then the routes."""
    app: ASGIApp = KeyCheck(routes(service, keys), keys)
    origins = service.settings.allowed_origins
    if origins:
        app = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-fullbore-ignored-fields", "x-fullbore-emulated"],
        )
    host = service.settings.host
    return Guard(app, HostCheck(host, {host}), service.settings.limits)


def routes(service: Service, keys: Keys) -> FastAPI:
    # The pages that FastAPI offers for its documentation load scripts from elsewhere: off.
    # A redirect from a path with one slash too many would be no envelope, and name a host and scheme that
    # the client sent: such a path is unknown like any other.
    app = FastAPI(
        title="Fullbore", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    limits, validator = service.settings.limits, service.validator
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)

    @app.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat(request: Request) -> Response:
        model = service.admit_generation()
        body = await read_object(request, limits)
        return await service.chat(*validator.chat(body, model))

    @app.post("/v1/completions", summary="Continue text")
    async def completions(request: Request) -> Response:
        model = service.admit_generation()
        body = await read_object(request, limits)
        return await service.completion(*validator.completion(body, model))

    @app.post("/tokenize", summary="Token ids of a text or a conversation")
    async def tokenize(request: Request) -> Response:
        _, model = service.admit()
        asked, ignored = validator.tokenize(await read_object(request, limits))
        if isinstance(asked.text, str):
            [ids] = await service.encode_texts([asked.text], model)
        else:
            ids = await service.encode_chat(asked.text, model)
        answer = {"tokens": ids, "count": len(ids), "max_model_len": model.max_model_len}
        return _json(answer, headers=ignored_header(ignored, limits))

    @app.post("/detokenize", summary="The text of token ids")
    async def detokenize(request: Request) -> Response:
        _, model = service.admit()
        asked, ignored = validator.detokenize(await read_object(request, limits), model)
        text = service.tokenizer.decode(asked.tokens, skip_special=False)
        return _json({"prompt": text}, headers=ignored_header(ignored, limits))

    @app.get("/v1/models", summary="The model that is served, under each of its names")
    async def models() -> Response:
        return _json({"object": "list", "data": [_model(service, name) for name in service.settings.served]})

    @app.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str) -> Response:
        if name not in service.settings.served:
            raise model_not_found(name[: limits.name_chars], service.settings.served[0])
        return _json(_model(service, name))

    @app.get("/health", summary="Whether work gets done")
    @app.get("/ping", include_in_schema=False)
    async def health() -> Response:
        well, word = service.health()
        return _json({"status": word}, 200 if well else 503)

    @app.get("/ready", summary="Whether a new request would be taken")
    async def ready() -> Response:
        try:
            service.admit()
        except ApiError as error:
            status = {"status": error.code, "loaded": round(service.loaded, 3)}
            return _json(status, 503, {"retry-after": str(RETRY_LATER_S)})
        return _json({"status": "ready"})

    @app.get("/version", summary="Of the server")
    async def version() -> Response:
        return _json({"version": __version__, **_emulated(service)})

    @app.get("/server_info", summary="Options and limits; no secrets")
    async def server_info() -> Response:
        return _json(_server_info(service))

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        if service.engine is not None:
            service.metrics.update(service.engine.stats)
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    @app.post("/flush_cache", summary="Forget unused prefixes (with a key, or from this machine)")
    async def flush_cache(request: Request) -> Response:
        _check_admin(request, keys)
        engine, _ = service.admit()
        await engine.flush()
        return _json({"status": "flushed"})

    return app


def _check_admin(request: Request, keys: Keys) -> None:
    """A key was checked before; without keys only this machine may, and no web page through its browser."""
    client = request.client.host if request.client else ""
    if not keys and (not is_loopback(client) or "origin" in request.headers):
        message = "this route needs an API key (--api-key), or a request from the machine itself"
        raise ApiError(403, message, kind="permission_error", code="admin_only")


def _model(service: Service, name: str) -> dict[str, object]:
    engine = service.engine
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "fullbore",
        "root": service.settings.served[0],
        "max_model_len": engine.ready.max_model_len if engine is not None else None,
        "weights": engine.ready.weights if engine is not None else None,
        **_emulated(service),
    }


def _emulated(service: Service) -> dict[str, object]:
    """What is emulated; nothing where the model is what it says."""
    engine = service.engine
    return {"emulated": engine.ready.emulated} if engine is not None and engine.ready.emulated else {}


def _server_info(service: Service) -> dict[str, object]:
    engine, settings = service.engine, service.settings
    return {
        "version": __version__,
        "state": service.lifecycle.state,
        "open_requests": service.lifecycle.open,
        "served_model_names": list(settings.served),
        "reasoning": settings.reasoning,
        "strict": settings.strict,
        "limits": msgspec.to_builtins(settings.limits),
        "options": settings.shown,
        "engine": msgspec.to_builtins(engine.ready) if engine is not None else None,
        "stats": msgspec.structs.asdict(engine.stats) if engine is not None else None,
    }


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, dict(headers or {}), "application/json")


async def _api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return Response(error.encode(), error.status, error.headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path[:200]
    known = {
        404: (f"there is no {path!r} here", "not_found"),
        405: (f"{path!r} does not take {request.method}", "method_not_allowed"),
    }
    message, code = known.get(error.status_code, (str(error.detail), "http_error"))
    answer = ApiError(error.status_code, message, code=code, headers=error.headers)
    return await _api_error(request, answer)


async def _unexpected_error(request: Request, error: Exception) -> Response:
    """The error itself goes on to the guard, which logs it."""
    return await _api_error(request, failed(f"the server failed on this request: {type(error).__name__}"))
