"""The step-time model: a sum over operators of roofline x efficiency, collectives, launches and host.

Everything that depends on the token count alone is computed once for each count; what is left for a call is
one look-up and the reading of the cache, so a simulator can ask a million times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import Server
from fullbore.model.config import ModelConfig
from fullbore.parallel.collectives import Links
from fullbore.parallel.layout import Layout, check_layout
from fullbore.steptime.factors import Deviation, Factors
from fullbore.steptime.network import CACHE_BYTES, Format, Matrix, Recipe, share
from fullbore.steptime.routing import experts_touched, padded_rows
from fullbore.steptime.step import (
    ACTIVATIONS,
    ARITHMETIC,
    CACHE,
    COLLECTIVES,
    EXPERTS,
    HOST,
    KINDS,
    LAUNCHES,
    WEIGHTS,
    Interval,
    Step,
    StepCost,
)

# Least passes over a token's hidden state in a layer, each a read or a write in bf16: norms, residuals,
# quantising, rope, gating. Routed copies pass in permuting, between the two products and in the weighted sum.
_PASSES, _ROUTED_PASSES = 16, 3
# Of the bf16 peak, by attention over latents where many heads share a read (H200, 128 heads: 0.64 measured).
_LATENT_ARITHMETIC = 0.6
# Expected rows of the busiest expert group over the mean, under real prompts without rebalancing.
_IMBALANCE = 1.2
# What the matrix units alone would reach of their peak (an 8192^3 bf16 product on H200: 0.80, measured).
_MOST_OF_PEAK = 0.8
# Of the experts' popularity within a batch; real prompts prefer some, which are then read once for more rows.
_EVENNESS = 4.0
_ACTIVATION_BYTES = 2.0

_MOST_KEPT = 50_000  # times by token counts; chunks of prompts come in any size

Times = tuple[float, ...]  # one for each of KINDS, in seconds
_AT = {kind: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Setting:
    """What is run, and on what. ``drafts``: tokens that MTP proposes in each step, 0 without it."""

    config: ModelConfig
    server: Server
    layout: Layout
    recipe: Recipe
    cache: str = "bf16"
    drafts: int = 0


class StepTime:
    """Times of steps under one setting and one set of factors. UsageError for a layout that does not fit.

    ``captured``: sequences of an attention group up to which decodes are replayed from a graph; None: always.
    """

    def __init__(
        self,
        setting: Setting,
        factors: Factors,
        deviation: Deviation | None = None,
        captured: int | None = None,
    ) -> None:
        check_layout(setting.layout, setting.config, setting.server.count)
        self.setting = setting
        self.factors = factors
        self.deviation = deviation or Deviation(0.0, 0.0)
        config, layout, device = setting.config, setting.layout, setting.server.device
        self._share = share(config, layout, setting.recipe)
        self._bytes_s = device.bandwidth_bytes_s.value * factors.memory
        self._peaks = _peaks(setting.server, factors.gemm)
        link_s = device.link_bytes_s.value * factors.link
        self._links = Links(layout.devices, device.topology, link_s, factors.hop_us * 1e-6)
        self._tp_links = Links(layout.tp, device.topology, link_s, factors.hop_us * 1e-6)
        heads, layers = config.num_attention_heads // layout.tp, config.num_hidden_layers
        # The cache is read once for all heads of a device, which multiply every latent they read.
        latent = config.latent_dim * CACHE_BYTES[setting.cache]
        read_s = latent / (device.bandwidth_bytes_s.value * factors.attention)
        flop = 2.0 * heads * (config.latent_dim + config.kv_lora_rank)
        multiply_s = flop * (1 + setting.drafts) / (device.bf16_flop_s.value * _LATENT_ARITHMETIC)
        # Data-parallel groups each read their own sequences.
        self._context_s = layers * max(read_s, multiply_s) / layout.dp
        self._context_kind = _AT[CACHE if read_s >= multiply_s else ARITHMETIC]
        flop = 2.0 * heads * (config.qk_head_dim + config.v_head_dim)
        self._pair_s = layers * flop / self._peaks["bf16"] / layout.dp
        self._eager_s = config.num_hidden_layers * factors.eager_us * 1e-6
        self._replayed = math.inf if captured is None else captured * layout.dp
        self._times: dict[tuple[int, int, int], tuple[float, Times]] = {}

    def seconds(self, step: Step) -> float:
        """The expected time of ``step``."""
        total = self._by_tokens(step)[0] + step.context * self._context_s
        if step.prefill_pairs:
            total += self._pairs_s(step)
        # Only decodes are replayed from a graph, and only in batches that there is one for; the host launches
        # every kernel of other steps.
        eager = step.prefill_tokens or step.decodes > self._replayed
        return max(total, self._eager_s) if eager else total

    def of(self, step: Step) -> StepCost:
        """The time of ``step`` with its interval, and what it is spent on."""
        terms = list(self._by_tokens(step)[1])
        terms[self._context_kind] += step.context * self._context_s
        terms[_AT[ARITHMETIC]] += self._pairs_s(step)
        seconds = self.seconds(step)
        terms[_AT[HOST]] += max(0.0, seconds - sum(terms))  # until the host has launched everything
        return StepCost(Interval.spread(seconds, self.deviation.step), dict(zip(KINDS, terms, strict=True)))

    def _pairs_s(self, step: Step) -> float:
        """Attention of new tokens, in the busiest group."""
        if not step.prefill_pairs:
            return 0.0
        return step.prefill_pairs * self._pair_s * self._crowding(step.sampled - step.decodes)

    def floor_s(self, step: Step) -> float:
        """The least for a step of decodes: the weights that are touched and the cache, read once at full
        bandwidth by the device that reads most. No product, no exchange, no launch is in it."""
        config, part, layout = self.setting.config, self._share, self.setting.layout
        touched = experts_touched(config.n_routed_experts, config.num_experts_per_tok, step.decodes)
        attention = sum(matrix.bytes for matrix in part.attention)
        dense = sum(matrix.bytes for matrix in part.dense)
        experts = sum(matrix.bytes for matrix in part.experts) * touched / config.n_routed_experts
        moe = part.router.bytes + sum(matrix.bytes for matrix in part.shared) + experts
        first = config.first_k_dense_replace
        weights = config.num_hidden_layers * attention + first * dense + part.head.bytes
        weights += (config.num_hidden_layers - first) * moe
        cache = config.num_hidden_layers * config.latent_dim * CACHE_BYTES[self.setting.cache]
        read = weights + step.context * cache / layout.dp
        return read / self.setting.server.device.bandwidth_bytes_s.value

    def _by_tokens(self, step: Step) -> tuple[float, Times]:
        key = step.decodes, step.prefill_tokens, step.sampled
        found = self._times.get(key)
        if found is None:
            if len(self._times) >= _MOST_KEPT:
                self._times.clear()
            times = self._count(*key)
            found = self._times[key] = (sum(times), times)
        return found

    def _count(self, decodes: int, prefill_tokens: int, sampled: int) -> Times:
        """All times but attention's over cached and new tokens."""
        setting, factors = self.setting, self.factors
        config, layout = setting.config, setting.layout
        times = [0.0] * len(KINDS)
        verified = decodes * (1 + setting.drafts)
        tokens = verified + prefill_tokens
        if tokens == 0:
            return tuple(times)
        rows = sampled + decodes * setting.drafts
        dense, moe = config.first_k_dense_replace, config.num_hidden_layers - config.first_k_dense_replace
        crowding = self._crowding(sampled - decodes)
        local = -(-verified // layout.dp) + math.ceil(prefill_tokens * crowding / layout.dp)
        self._layer(times, tokens, local, dense, False)
        self._layer(times, tokens, local, moe, True)
        self._product(times, -(-rows // layout.dp), self._share.head, 1)
        for _ in range(setting.drafts):  # one after the other: each needs the token before
            self._layer(times, decodes, -(-decodes // layout.dp), 1, True)
            self._product(times, -(-decodes // layout.dp), self._share.draft, 1)
            self._product(times, -(-decodes // layout.dp), self._share.head, 1)
        embedded = local * config.hidden_size * _ACTIVATION_BYTES
        times[_AT[COLLECTIVES]] += self._tp_links.all_reduce_s(embedded)
        times[_AT[HOST]] += factors.step_us * 1e-6 * (1 + setting.drafts) + rows * factors.row_us * 1e-6
        return tuple(times)

    def _crowding(self, prompts: int) -> float:
        """Prompt tokens of the busiest attention group over the mean: a prompt is computed by one group."""
        dp, prompts = self.setting.layout.dp, max(1, prompts)
        return -(-prompts // dp) * dp / prompts

    def _layer(self, times: list[float], tokens: int, local: int, count: int, moe: bool) -> None:
        """Adds ``count`` layers; ``tokens``: rows of the server, ``local``: of the busiest group."""
        config, layout, part = self.setting.config, self.setting.layout, self._share
        for matrix in part.attention:
            self._product(times, local, matrix, count)
        if moe:
            self._product(times, local, part.router, count)
            for matrix in part.shared:
                self._product(times, local, matrix, count)
            self._experts(times, tokens, part.experts, count)
        else:
            for matrix in part.dense:
                self._product(times, local, matrix, count)
        routed = tokens * config.num_experts_per_tok / layout.ep if moe else 0.0
        passed = (local * _PASSES + routed * _ROUTED_PASSES) * config.hidden_size * _ACTIVATION_BYTES
        passed *= self.factors.passes
        times[_AT[ACTIVATIONS]] += count * passed / self._bytes_s
        times[_AT[LAUNCHES]] += count * self.factors.layer_us * 1e-6
        times[_AT[COLLECTIVES]] += count * self._exchange_s(tokens, local, moe)

    def _exchange_s(self, tokens: int, local: int, moe: bool) -> float:
        """Of one layer: attention's output, and the experts' or the dense feed-forward's."""
        config, layout = self.setting.config, self.setting.layout
        size = config.hidden_size * _ACTIVATION_BYTES
        attention = self._tp_links.all_reduce_s(local * size)
        if not moe or layout.dp == 1:
            return attention + self._tp_links.all_reduce_s(local * size)
        # Tokens must reach devices of other groups: everything to everyone, or each to its experts' devices.
        links = self._links
        everywhere = links.gather_s(tokens * size) * 2
        if layout.ep < layout.devices:
            return attention + everywhere
        sent = -(-tokens // layout.devices) * config.num_experts_per_tok * size
        return attention + min(everywhere, links.exchange_s(sent / 2) + links.exchange_s(sent))

    def _product(self, times: list[float], tokens: int, matrix: Matrix, count: int) -> None:
        self._roofline(times, WEIGHTS, matrix.bytes, tokens * matrix.flop, matrix.format, count)

    def _experts(self, times: list[float], tokens: int, matrices: Sequence[Matrix], count: int) -> None:
        """Both products of the routed experts, on the busiest device."""
        config, ep = self.setting.config, self.setting.layout.ep
        experts, chosen = config.n_routed_experts, config.num_experts_per_tok
        touched = experts_touched(experts, chosen, tokens, _EVENNESS) / experts
        rows = padded_rows(experts, chosen, tokens, self.factors.tile) / ep
        uneven = _IMBALANCE if ep > 1 else 1.0
        touched = min(1.0, touched * uneven)
        for matrix in matrices:
            read, flop = matrix.bytes * touched, rows * uneven * matrix.flop
            self._roofline(times, EXPERTS, read, flop, matrix.format, count)

    def _roofline(
        self, times: list[float], kind: str, read: float, flop: float, form: Format, count: int
    ) -> None:
        memory_s, arithmetic_s = read / self._bytes_s, flop / self._peaks[form.peak]
        if memory_s >= arithmetic_s:
            times[_AT[kind]] += count * memory_s
        else:
            times[_AT[ARITHMETIC]] += count * arithmetic_s


def _peaks(server: Server, gemm: float) -> dict[str, float]:
    """FLOP/s reached by large products; without a unit for a format, that of the next wider one.

    ``gemm`` is what the fastest device of an architecture reaches. What keeps it from its peak (scaling
    partial sums, moving tiles) is done by the same units at the same pace where a vendor has cut the matrix
    units alone, as in the H20, and so takes a smaller part of a longer time there.
    """
    device = server.device
    fastest = max(
        (device, *(other for other in catalogue() if other.architecture == device.architecture)),
        key=lambda other: other.bf16_flop_s.value,
    )
    cut = (device.bf16_flop_s.value / device.units) / (fastest.bf16_flop_s.value / fastest.units)
    reached = 1 / (1 / _MOST_OF_PEAK + cut * max(0.0, 1 / gemm - 1 / _MOST_OF_PEAK))
    bf16 = device.bf16_flop_s.value
    fp8 = device.fp8_flop_s.value if device.fp8_flop_s else bf16
    fp4 = device.fp4_flop_s.value if device.fp4_flop_s else fp8
    return {"bf16": bf16 * reached, "fp8": fp8 * reached, "fp4": fp4 * reached}
