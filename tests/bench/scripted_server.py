"""An OpenAI-compatible server whose timing and failures are exactly known."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Script:
    """``faults``: the number of a completion request, counted from 0 -> what goes wrong with it."""

    ttft_s: float = 0.02
    gap_s: float = 0.002
    tokens_per_chunk: int = 1
    short_by: int = 0  # tokens
    usage: bool = True
    faults: Mapping[int, str] = field(default_factory=dict)
    every_fault: str = ""
    models: Any = field(default_factory=lambda: {"data": [{"id": "scripted", "max_model_len": 4096}]})
    models_status: int = 200
    vocab_size: int = 1000  # 0: there is no /server_info
    key: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)  # bodies of completion requests
    asked_ready: int = 0
    cut: int = 0  # streams whose reader went away
    in_flight: int = 0
    most_in_flight: int = 0


@contextmanager
def scripted_server(script: Script) -> Iterator[str]:
    """Runs in a thread with an event loop of its own; yields its URL."""
    ready = threading.Event()
    stop: asyncio.Event
    url, loop = "", asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal url, stop
        stop = asyncio.Event()
        runner = web.AppRunner(_application(script), shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(lambda: stop.set())
        thread.join(30)
        loop.close()


def _application(script: Script) -> web.Application:
    async def models(request: web.Request) -> web.Response:
        if script.key and request.headers.get("Authorization") != f"Bearer {script.key}":
            return web.json_response({"error": {"message": "bad key"}}, status=401)
        if script.models_status != 200:
            return web.json_response({"error": {"message": "not now"}}, status=script.models_status)
        if isinstance(script.models, str):
            return web.Response(text=script.models)
        return web.json_response(script.models)

    async def server_info(_: web.Request) -> web.Response:
        if not script.vocab_size:
            raise web.HTTPNotFound
        return web.json_response({"engine": {"vocab_size": script.vocab_size, "pages": 1}, "version": "1"})

    async def completions(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = script.faults.get(len(script.seen), script.every_fault)
        script.seen.append(body)
        if fault == "503":
            return web.json_response({"error": {"message": "queue is full"}}, status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        script.in_flight += 1
        script.most_in_flight = max(script.in_flight, script.most_in_flight)
        try:
            async for event in _events(script, body, fault):
                if event == b"cut":
                    if request.transport is not None:
                        request.transport.abort()
                    break
                await response.write(event)
        except (asyncio.CancelledError, ConnectionError):
            script.cut += 1
            raise
        finally:
            script.in_flight -= 1
        return response

    async def chat(request: web.Request) -> web.StreamResponse:
        script.seen.append(await request.json())
        return await _chat(request)

    async def ready(_: web.Request) -> web.Response:
        script.asked_ready += 1
        if script.asked_ready < 3:
            return web.json_response({"status": "loading", "loaded": script.asked_ready / 3}, status=503)
        return web.json_response({"status": "ready"})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_get("/server_info", server_info)
    app.router.add_get("/ready", ready)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/chat/completions", chat)
    return app


async def _events(script: Script, body: dict[str, Any], fault: str) -> AsyncIterator[bytes]:
    tokens = body["max_tokens"] - script.short_by
    await asyncio.sleep(script.ttft_s)
    yield b": a comment, as keep-alives are\n\n"
    for first in range(0, tokens, script.tokens_per_chunk):
        if first:
            await asyncio.sleep(script.gap_s)
        if first >= tokens // 2 and fault:
            if fault == "cut":
                yield b"cut"
            elif fault == "hang":
                await asyncio.sleep(3600)
            elif fault == "error":
                yield b'data: {"error": {"message": "engine died", "code": 500}}\n\ndata: [DONE]\n\n'
            elif fault == "garbage":
                yield b"data: {nonsense\n\n"
            return  # "end": the stream just ends
        last = first + script.tokens_per_chunk >= tokens
        # Several forms that all occur: CRLF, no blank after the colon, an event in two writes, no text yet.
        text = "" if first % 3 == 2 else "x"
        event = _sse({"choices": [{"text": text, "finish_reason": None}]})
        yield event[:9]
        yield event[9:] if first % 2 else event[9:].replace(b"\n\n", b"\r\n\r\n")
        if last:
            yield _sse({"choices": [{"text": "", "finish_reason": "length"}]})
    if script.usage:
        prompt = body["prompt"]
        count = len(prompt) if isinstance(prompt, list) else len(prompt.split())
        yield _sse({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": tokens}})
    yield b"data:[DONE]\n\n"


async def _chat(request: web.Request) -> web.StreamResponse:
    """A thought, then an echo of the last message."""
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    said = f"You said: {body['messages'][-1]['content']}"
    deltas = [
        {"role": "assistant"},
        {"reasoning_content": "hm\n"},
        *({"content": word} for word in said.split(" ")),
    ]
    base = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    for delta in deltas:
        await response.write(_sse({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
    await response.write(_sse({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    usage = {"prompt_tokens": 3, "completion_tokens": len(deltas), "total_tokens": 3 + len(deltas)}
    await response.write(_sse({**base, "choices": [], "usage": usage}))
    await response.write(b"data: [DONE]\n\n")
    return response


def _sse(value: object) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def main(arguments: list[str]) -> None:
    """As a process, in place of ``fullbore serve demo``: SIGTERM ends it with code 0."""
    import signal
    import sys

    port = int(arguments[arguments.index("--port") + 1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("scripted server starting", flush=True)
    if "--die" in arguments:
        sys.exit(3)
    try:
        web.run_app(_application(Script()), host="127.0.0.1", port=port, handle_signals=False, print=None)
    except (web.GracefulExit, SystemExit):
        sys.exit(0)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
