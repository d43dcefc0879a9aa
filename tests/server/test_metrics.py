"""The exposition, read back with Prometheus' own parser."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from fullbore.engine.messages import Ready, Stats
from fullbore.server.metrics import ServerMetrics

# As dashboards and autoscalers ask for them.
NAMES = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "num_preemptions_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "corrupted_requests_total",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "request_time_per_output_token_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_decode_time_seconds_bucket",
    "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket",
}


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def read(metrics: ServerMetrics) -> dict[str, float]:
    """``name{label="value",...}`` without the model's name -> value."""
    values = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "model_name"}
            values[sample.name + "".join(f",{key}={value}" for key, value in labels.items())] = sample.value
    return values


def test_the_names_of_the_field_are_there() -> None:
    names = {key.split(",")[0] for key in read(ServerMetrics("demo"))}
    assert {f"fullbore:{name}" for name in NAMES} <= names
    assert all(name.startswith("fullbore:") for name in names)


def test_weights_and_cache_are_told_in_labels_once_they_are_loaded() -> None:
    metrics = ServerMetrics("demo")
    assert not [key for key in read(metrics) if "model_info" in key or "cache_config_info" in key]
    metrics.loaded(Ready(300, 256, 16, 1000, [1], "print", "fp8", 656, "int4_g32"))
    assert read(metrics)["fullbore:model_info,weights=int4_g32"] == 1
    labels = "bytes_per_token=656,cache_dtype=fp8,block_size=16,num_blocks=1000"
    (found,) = [key for key in read(metrics) if key.startswith("fullbore:cache_config_info")]
    assert set(found.split(",")[1:]) == set(labels.split(","))
    assert read(metrics)[found] == 1


def test_every_sample_names_the_model() -> None:
    metrics = ServerMetrics('a "model"')
    metrics.rejected("queue_full")
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert all(sample.labels["model_name"] == 'a "model"' for sample in family.samples)


def test_aliases_carry_the_same_values() -> None:
    metrics = ServerMetrics("fullbore:model", vllm_aliases=True)
    metrics.finished(metrics.request_started(3), "stop")
    metrics.rejected("queue_full")
    values = read(metrics)
    ours = {
        key.removeprefix("fullbore:"): value for key, value in values.items() if key.startswith("fullbore:")
    }
    theirs = {key.removeprefix("vllm:"): value for key, value in values.items() if key.startswith("vllm:")}
    assert ours == theirs
    assert ours["request_success_total,finished_reason=stop"] == 1
    assert b'vllm:num_requests_running{model_name="fullbore:model"}' in metrics.render()


def test_one_requests_times() -> None:
    clock = Clock()
    metrics = ServerMetrics("demo", clock=clock)
    timing = metrics.request_started(prompt_tokens=100)
    for wait_s in (0.5, 0.02, 0.04):
        clock.now_s += wait_s
        metrics.token(timing)
    clock.now_s += 0.06
    metrics.token(timing, 2)
    metrics.finished(timing, "length")
    metrics.finished(timing, "abort")  # the first word counts
    values = {key.removeprefix("fullbore:"): value for key, value in read(metrics).items()}

    def near(name: str, value: float) -> bool:
        return abs(values[name] - value) < 1e-9

    assert near("time_to_first_token_seconds_sum", 0.5)
    assert near("time_to_first_token_seconds_count", 1)
    assert near("inter_token_latency_seconds_count", 4)
    assert near("inter_token_latency_seconds_sum", 0.12)
    assert near("request_time_per_output_token_seconds_sum", 0.12 / 4)
    assert near("request_decode_time_seconds_sum", 0.12)
    assert near("e2e_request_latency_seconds_sum", 0.62)
    assert near("request_prompt_tokens_sum", 100)
    assert near("request_generation_tokens_sum", 5)
    assert near("request_success_total,finished_reason=length", 1)
    assert "request_success_total,finished_reason=abort" not in values


def test_times_may_count_from_before_tokenising() -> None:
    clock = Clock()
    metrics = ServerMetrics("demo", clock=clock)
    timing = metrics.request_started(1, started_s=clock.now_s - 2)
    metrics.token(timing)
    assert read(metrics)["fullbore:time_to_first_token_seconds_sum"] == 2


def test_an_aborted_request_has_no_latency() -> None:
    metrics = ServerMetrics("demo")
    timing = metrics.request_started(1)
    metrics.token(timing)
    metrics.finished(timing, "abort")
    values = read(metrics)
    assert values["fullbore:e2e_request_latency_seconds_count"] == 0
    assert values["fullbore:request_success_total,finished_reason=abort"] == 1
    assert values["fullbore:request_generation_tokens_count"] == 1


@settings(deadline=None, max_examples=30)
@given(runs=st.lists(st.lists(st.integers(0, 1000), max_size=8), min_size=1, max_size=4))
def test_counters_hold_the_sum_over_all_restarts_of_the_engine(runs: list[list[int]]) -> None:
    metrics = ServerMetrics("demo")
    for run in runs:
        metrics.update(Stats())  # the heart-beat of an engine that has just started
        for step in range(len(run)):
            metrics.update(Stats(steps=step + 1, generated_tokens=sum(run[: step + 1])))
    assert read(metrics)["fullbore:generation_tokens_total"] == sum(map(sum, runs))


def test_a_restarted_engine_adds_to_what_was_counted() -> None:
    metrics = ServerMetrics("demo")
    metrics.update(Stats(steps=10, prompt_tokens=100, generated_tokens=40, preemptions=2))
    metrics.update(Stats(steps=12, prompt_tokens=100, generated_tokens=44, preemptions=2))
    metrics.update(Stats(steps=1, prompt_tokens=7))
    metrics.update(Stats(steps=2, prompt_tokens=7, generated_tokens=1))
    values = read(metrics)
    assert values["fullbore:prompt_tokens_total"] == 107
    assert values["fullbore:generation_tokens_total"] == 45
    assert values["fullbore:num_preemptions_total"] == 2


def test_gauges_show_now() -> None:
    metrics = ServerMetrics("demo")
    metrics.update(Stats(running=3, waiting=4, pages_total=200, pages_used=50))
    values = read(metrics)
    assert values["fullbore:num_requests_running"] == 3
    assert values["fullbore:num_requests_waiting"] == 4
    assert values["fullbore:kv_cache_usage_perc"] == 0.25
    metrics.update(Stats())
    assert read(metrics)["fullbore:kv_cache_usage_perc"] == 0


def test_buckets_reach_from_a_millisecond_to_a_hundred_seconds() -> None:
    values = read(ServerMetrics("demo"))
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"):
        assert f"fullbore:{name}_bucket,le=0.001" in values
        assert f"fullbore:{name}_bucket,le=100.0" in values


def test_servers_share_no_registry() -> None:
    first, second = ServerMetrics("demo"), ServerMetrics("demo")
    first.rejected("queue_full")
    assert "fullbore:admission_rejections_total,reason=queue_full" in read(first)
    assert "fullbore:admission_rejections_total,reason=queue_full" not in read(second)
    assert not any(family.name.startswith("fullbore") for family in REGISTRY.collect())
