"""transformers' ``generate`` behind /v1/completions. Run with the interpreter of its own environment.

Batches are static, as ``generate`` has them: what waits when a batch begins goes together if it is of the
same lengths, what comes later waits for its end.
"""

import argparse
import json
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.streamers import BaseStreamer

GATHER_S = 0.02  # requests sent at once arrive within this
END = None


@dataclass
class Job:
    """One request; ``tokens`` gets each token, an error's text, or END."""

    prompt: list[int]
    max_tokens: int
    tokens: "queue.Queue[int | str | None]" = field(default_factory=queue.Queue)

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.prompt), self.max_tokens


class Deliver(BaseStreamer):  # type: ignore[misc]
    """Hands the tokens of each step to their requests; the first thing it gets are the prompts."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs, self._prompts_seen = jobs, False

    def put(self, value: Any) -> None:
        if self._prompts_seen:
            for job, token in zip(self._jobs, value.tolist(), strict=True):
                job.tokens.put(token)
        self._prompts_seen = True

    def end(self) -> None:
        for job in self._jobs:
            job.tokens.put(END)


def batches(waiting: "queue.Queue[Job]", slots: int) -> Iterator[list[Job]]:
    """Requests of one pair of lengths, the longest waiting first."""
    held: list[Job] = []
    while True:
        if not held:
            held.append(waiting.get())
            time.sleep(GATHER_S)
        while not waiting.empty():
            held.append(waiting.get())
        batch = [job for job in held if job.lengths == held[0].lengths][:slots]
        held = [job for job in held if all(job is not taken for taken in batch)]
        yield batch


def generate(model: Any, jobs: list[Job]) -> None:
    """One static batch, greedy, to its full length."""
    prompts = torch.tensor([job.prompt for job in jobs])  # [requests, prompt tokens]
    wanted = GenerationConfig(
        max_new_tokens=jobs[0].max_tokens, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True
    )
    try:
        with torch.inference_mode():
            model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=wanted,
                streamer=Deliver(jobs),
            )
    except Exception as error:  # noqa: BLE001  whatever it was, the client is told and the next batch runs
        for job in jobs:
            job.tokens.put(f"{type(error).__name__}: {error}")
            job.tokens.put(END)


def handler(waiting: "queue.Queue[Job]", name: str, tokenizer: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing: a line for each request would be work."""

        def do_GET(self) -> None:
            self._begin("application/json")
            self.wfile.write(json.dumps({"data": [{"id": name}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["prompt"]
            ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
            job = Job(ids, int(body["max_tokens"]))
            waiting.put(job)
            self._begin("text/event-stream")
            count = 0
            while (token := job.tokens.get()) is not END:
                if isinstance(token, str):
                    self._event({"error": {"message": token}})
                    return
                count += 1
                last = "length" if count == job.max_tokens else None
                text = tokenizer.decode([token])
                self._event({"choices": [{"index": 0, "text": text, "finish_reason": last}]})
            usage = {"prompt_tokens": len(ids), "completion_tokens": count}
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _begin(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def _event(self, value: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

    return Handler


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    model.generation_config = GenerationConfig()  # the checkpoint's would add sampling and an end
    waiting: queue.Queue[Job] = queue.Queue()
    server = Server(("127.0.0.1", args.port), handler(waiting, args.name, tokenizer))
    Thread(target=server.serve_forever, daemon=True).start()
    for jobs in batches(waiting, args.slots):
        generate(model, jobs)


if __name__ == "__main__":
    main()
