"""What ``/metrics`` shows, in Prometheus' text format.

The names are those that dashboards and autoscalers of this field read, under the prefix ``fullbore:``; with
``vllm_aliases`` every one of them appears under ``vllm:`` as well. Times are in seconds and measured here, in
the process that speaks HTTP, as a client would see them; counts of tokens and pages come from the engine.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fullbore.engine.messages import Ready, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX, ALIAS = "fullbore:", "vllm:"

SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 100)
LONG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 100, 300, 1000)
TOKENS = tuple(float(2**power) for power in range(18))  # 1 to 131072


@dataclass(slots=True)
class Timing:
    """The times of one request, on the clock of the metrics that made it."""

    started_s: float
    first_s: float | None = None
    latest_s: float = 0.0
    generated_tokens: int = 0
    finished: bool = False


class ServerMetrics:
    """One server's metrics, in a registry of its own.

    For each request: ``request_started``, ``token`` for every piece that is sent, ``finished`` once, whatever
    its end. A request that is refused before it starts is ``rejected`` instead.
    """

    def __init__(
        self, model_name: str, vllm_aliases: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._model = model_name
        self._stats = Stats()
        self._registry = CollectorRegistry(auto_describe=False)
        self._aliases = CollectorRegistry(auto_describe=False)
        if vllm_aliases:
            self._aliases.register(_Renamed(self._registry))

        self._running = self._gauge("num_requests_running", "Requests with pages, computed in steps")
        self._waiting = self._gauge("num_requests_waiting", "Requests queued in the engine")
        self._usage = self._gauge(
            "kv_cache_usage_perc", "Share of the cache's pages owned by requests, 0 to 1"
        )
        self._cache = Gauge(
            PREFIX + "cache_config_info",
            "The paged cache: type of its values, tokens a page, pages, bytes a token",
            ("model_name", "cache_dtype", "block_size", "num_blocks", "bytes_per_token"),
            registry=self._registry,
        )
        self._counters = {
            "preemptions": self._counter("num_preemptions", "Times that a request gave its pages back"),
            "prefix_queries": self._counter(
                "prefix_cache_queries", "Prompt tokens looked up in the prefix tree"
            ),
            "prefix_hits": self._counter("prefix_cache_hits", "Prompt tokens found in the prefix tree"),
            "prompt_tokens": self._counter("prompt_tokens", "Prompt tokens processed"),
            "generated_tokens": self._counter("generation_tokens", "Tokens generated"),
            "corrupted": self._counter("corrupted_requests", "Requests ended by logits that were not finite"),
        }
        self._info = Gauge(
            PREFIX + "model_info",
            "1, with the format that most weights are in",
            ("model_name", "weights"),
            registry=self._registry,
        )
        self._success = Counter(
            PREFIX + "request_success",
            "Requests ended, by how",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._rejections = Counter(
            PREFIX + "admission_rejections",
            "Requests refused before they started, by why",
            ("model_name", "reason"),
            registry=self._registry,
        )
        self._ttft = self._histogram("time_to_first_token_seconds", "From request to first token", LONG_S)
        self._itl = self._histogram("inter_token_latency_seconds", "From one token to the next", SHORT_S)
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds",
            "A request's time after its first token, divided by its further tokens",
            SHORT_S,
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "From request to last token", LONG_S)
        self._decode = self._histogram("request_decode_time_seconds", "From first to last token", LONG_S)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS)
        self._generated = self._histogram(
            "request_generation_tokens", "Tokens generated for a request", TOKENS
        )

    def loaded(self, facts: Ready) -> None:
        """The model is there: the format of its weights, and of which kind and how large its cache is, in
        labels, as others tell it."""
        self._info.labels(self._model, facts.weights).set(1)
        self._cache.labels(
            self._model,
            facts.kv_cache_dtype,
            str(facts.page_size),
            str(facts.pages),
            str(facts.kv_bytes_per_token),
        ).set(1)

    def request_started(self, prompt_tokens: int, started_s: float | None = None) -> Timing:
        """A request was accepted; its times count from ``started_s`` on this clock, or from now."""
        self._prompt.observe(prompt_tokens)
        return Timing(started_s=self._clock() if started_s is None else started_s)

    def token(self, timing: Timing, count: int = 1) -> None:
        """``count`` more tokens have come from the engine, at once. The first of a request ends its TTFT."""
        if count < 1:
            return
        now_s = self._clock()
        if timing.first_s is None:
            timing.first_s = timing.latest_s = now_s
            self._ttft.observe(now_s - timing.started_s)
            gaps = count - 1
        else:
            gaps = count
        for _ in range(gaps):  # tokens that arrive together share the time since the one before
            self._itl.observe((now_s - timing.latest_s) / gaps)
        timing.latest_s = now_s
        timing.generated_tokens += count

    def finished(self, timing: Timing, reason: str) -> None:
        """The request ended: stop, length, abort or error. Times count only where an answer was completed."""
        if timing.finished:
            return
        timing.finished = True
        self._success.labels(self._model, reason).inc()
        self._generated.observe(timing.generated_tokens)
        if reason not in ("stop", "length"):
            return
        self._e2e.observe(self._clock() - timing.started_s)
        if timing.first_s is not None:
            decode_s = timing.latest_s - timing.first_s
            self._decode.observe(decode_s)
            if timing.generated_tokens > 1:
                self._tpot.observe(decode_s / (timing.generated_tokens - 1))

    def rejected(self, reason: str) -> None:
        """A request was refused; ``reason`` is one of few fixed words, such as queue_full."""
        self._rejections.labels(self._model, reason).inc()

    def update(self, stats: Stats) -> None:
        """Takes over the engine's newest counters and gauges.

        An engine that was restarted counts from zero again; what it counted before stays counted.
        """
        counted = ("steps", *self._counters)
        restarted = any(getattr(stats, field) < getattr(self._stats, field) for field in counted)
        before = Stats() if restarted else self._stats
        for field, counter in self._counters.items():
            counter.inc(getattr(stats, field) - getattr(before, field))
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        self._usage.set(stats.pages_used / stats.pages_total if stats.pages_total else 0.0)
        self._stats = stats

    def render(self) -> bytes:
        """The exposition, to be sent as ``CONTENT_TYPE``."""
        return generate_latest(self._registry) + generate_latest(self._aliases)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(PREFIX + name, meaning, ("model_name",), registry=self._registry).labels(self._model)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(PREFIX + name, meaning, ("model_name",), registry=self._registry).labels(self._model)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            PREFIX + name, meaning, ("model_name",), registry=self._registry, buckets=buckets
        ).labels(self._model)


class _Renamed(Collector):
    """Another registry's metrics under the alias prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            alias = Metric(_alias(family.name), family.documentation, family.type)
            alias.samples = [sample._replace(name=_alias(sample.name)) for sample in family.samples]
            yield alias


def _alias(name: str) -> str:
    return ALIAS + name.removeprefix(PREFIX)
