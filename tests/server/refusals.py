"""What a refusal of the server looks like, on every endpoint that takes a body."""

from typing import Any

from live_server import Live

CHAT, TEXT, TOKENIZE, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
GENERATE = (CHAT, TEXT)
ALL = (CHAT, TEXT, TOKENIZE, DETOKENIZE)
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "hi"},
    TOKENIZE: {"prompt": "hi"},
    DETOKENIZE: {"tokens": [5]},
}
ENVELOPE = {"message", "type", "param", "code"}


def check(server: Live, answer: Any, status: int, code: str | None, param: str | None) -> None:
    assert answer.status == status, answer.body[:500]
    error = answer.error
    assert set(error) == ENVELOPE
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert len(error["message"]) < 500
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    if status < 500:
        assert server.engine.submitted == [], "it reached the engine"
    assert server.nothing_leaks()
