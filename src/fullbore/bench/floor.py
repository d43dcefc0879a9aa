"""How far an operating point is from what a server's memory and arithmetic allow."""

from dataclasses import dataclass

from fullbore.bench.audit import OperatingPoint
from fullbore.hardware.catalogue import Device
from fullbore.model.config import ModelConfig
from fullbore.model.traffic import step_traffic


@dataclass(frozen=True)
class Server:
    """Devices of one kind. ``device``: None where only the bandwidth was given."""

    name: str
    devices: int
    bandwidth_bytes_s: float  # of each
    device: Device | None = None


@dataclass(frozen=True)
class Floor:
    """The least time of one decode step, in ms, and the memory it needs on each device, in bytes.

    What is touched is read from memory once; a real step reads it at less than the full bandwidth, adds the
    exchange between devices and the prompts' share, and so takes longer.
    """

    context: int  # mean tokens that a decode attends to: its prompt and half its answer
    experts_touched: float
    tensor_parallel_ms: float  # latents and small matrices are read by every device
    undivided_ms: float  # nothing is read twice: no layout takes less
    reached_ms: float | None  # tensor parallel, at the bandwidth that a copy was measured to reach
    arithmetic_ms: float | None  # products of the weights with decodes and prompts, at the dense FLOP/s
    weight_bytes: float
    latent_bytes: float  # all requests at their full length
    memory_bytes: float | None


def floor(config: ModelConfig, point: OperatingPoint, server: Server, cache_value_bytes: int) -> Floor:
    """The floor of ``point``, whose concurrency is the batch of every step."""
    batch = max(1, round(point.concurrency))
    context = round(point.input_tokens + point.output_tokens / 2)
    traffic = step_traffic(config, batch, context, cache_value_bytes)
    stored = step_traffic(config, 1_000_000, 0)  # every expert is touched
    # Kept, though a step reads only some of its rows.
    embedding_bytes = 0 if config.tie_word_embeddings else 2 * config.vocab_size * config.hidden_size
    device_bytes, device = traffic.device_bytes(server.devices), server.device
    flop_s = device and (device.fp8_flop_s if config.quantised else device.bf16_flop_s)
    prompts = 1 + point.input_tokens / point.output_tokens  # tokens computed for each that is answered
    full = (point.input_tokens + point.output_tokens) / max(1, context)
    return Floor(
        context=context,
        experts_touched=traffic.experts_touched,
        tensor_parallel_ms=device_bytes / server.bandwidth_bytes_s * 1e3,
        undivided_ms=traffic.total_bytes / server.devices / server.bandwidth_bytes_s * 1e3,
        reached_ms=device_bytes / device.reached_bytes_s.value * 1e3
        if device and device.reached_bytes_s
        else None,
        arithmetic_ms=traffic.flop * prompts / (server.devices * flop_s.value) * 1e3 if flop_s else None,
        weight_bytes=stored.device_bytes(server.devices) + embedding_bytes / server.devices,
        latent_bytes=traffic.latent_bytes * full,
        memory_bytes=device.memory_bytes.value if device else None,
    )
