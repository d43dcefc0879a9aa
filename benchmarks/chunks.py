"""``python -m benchmarks.chunks PORT``: a server of streamed chunks that cost next to nothing to make.

It keeps the time at which it sent each chunk (CLOCK_MONOTONIC, which all processes share), so a client's
own delay can be told from the server's: ``GET /sent`` brings what was sent so far. A stream is asked for as
at any OpenAI-compatible server; ``rate_s`` (chunks per second) and ``phase`` (0 to 1, of the time between
two) come in its body, and streams of one phase are sent one right after the other, as engines do.
"""

import asyncio
import json
import random
import resource
import sys
import time
from array import array

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n%s\r\n\r\n"
CHUNK = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,"model":"chunks",'
    b'"choices":[{"index":0,"text":"%s","logprobs":null,"finish_reason":%s}],"usage":%s}\n\n'
)
WORD = b" some"


class Stream(asyncio.Protocol):
    """One connection, one answer."""

    def __init__(self, sent: "dict[str, array[float]]") -> None:
        self._sent = sent
        self._read = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, separator, body = self._read.partition(b"\r\n\r\n")
        if not separator:
            return
        if head.startswith(b"POST"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            if len(body) >= int(length.split(b":")[1]):
                self._begin(json.loads(body))
        elif head.startswith(b"GET /sent"):
            self._answer({name: list(times) for name, times in self._sent.items()})
        elif head.startswith(b"GET /v1/models"):
            self._answer({"data": [{"id": "chunks"}]})
        else:
            self._answer({})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self._transport.write(HEAD % (b"application/json", b"Content-Length: %d" % len(body)) + body)
        self._transport.close()

    def _begin(self, body: dict[str, object]) -> None:
        self._left = int(str(body["max_tokens"]))
        self._times = self._sent[str(body["prompt"])] = array("d")
        self._gap_s = 1 / float(str(body["rate_s"]))
        self._transport.write(HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked"))
        loop = asyncio.get_running_loop()
        steps = int(loop.time() / self._gap_s) + 2
        self._due_s = (steps + (0.0 if body["lockstep"] else random.random())) * self._gap_s
        self._timer = loop.call_at(self._due_s, self._send)

    def _send(self) -> None:
        self._left -= 1
        if self._left >= 0:
            self._times.append(time.monotonic())
            self._write(CHUNK % (WORD, b"null", b"null"))
            self._due_s += self._gap_s
            self._timer = asyncio.get_running_loop().call_at(self._due_s, self._send)
        else:
            usage = b'{"prompt_tokens":1,"completion_tokens":%d}' % len(self._times)
            self._write(CHUNK % (b"", b'"length"', usage) + b"data: [DONE]\n\n")
            self._transport.write(b"0\r\n\r\n")
            self._transport.close()

    def _write(self, body: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(body), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def serve(port: int) -> None:
    """Until the process is ended. The ordinary loop: uvloop keeps writes back until an iteration's end."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sent: dict[str, array[float]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(sent), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
