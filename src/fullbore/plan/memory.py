"""What a device holds: its part of the weights, and the cache that the rest has room for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fullbore.errors import CapacityError
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import Server
from fullbore.model.config import ModelConfig
from fullbore.parallel.layout import possible_layouts
from fullbore.plan.weights import on_accelerators, weight_bytes
from fullbore.steptime.model import Setting
from fullbore.steptime.network import CACHE_BYTES, RECIPES

# Beside a chunk's activations: graphs, libraries' workspaces, buffers of collectives. Stated, not measured.
_FIXED_BYTES = 1.5e9
_PAGE, _PAGE_NUMBER_BYTES = 16, 4  # tokens of a page, and its entry in a request's table
_FP8_SCALED, _SCALE_BYTES, _ROPE_BYTES = 128, 4, 2  # a row of our FP8 cache (ops/cache.py)
_MOST_SUGGESTIONS = 4
USUAL_SHARE, MOST_SHARE = 0.9, 0.97  # of a device's memory that engines use, and that they can
USUAL_CHUNK, MOST_CHUNK = 8192, 16384  # prompt tokens in a step that memory is planned for
_MOST_ROUTED = 65536  # tokens that visit experts at once, as in SGLang and vLLM
CONTEXTS = (1024, 4096, 16384, 65536, 163840)  # whose largest concurrency is told


@dataclass(frozen=True)
class Memory:
    """In bytes, of each device; ``cache_tokens``: of the whole server. ``weights``: by ``weights.PARTS``."""

    device_bytes: float
    used_share: float
    weights: Mapping[str, float]
    workspace_bytes: float
    cache_bytes: float  # what is left for it and its page tables
    cache_token_bytes: float
    cache_tokens: int

    @property
    def weight_bytes(self) -> float:
        return sum(self.weights.values())

    @property
    def reserve_bytes(self) -> float:
        """What is not used."""
        return self.device_bytes * (1 - self.used_share)

    def requests(self, tokens: int) -> int:
        """How many of so many tokens are in the cache at once."""
        return self.cache_tokens // tokens

    def largest(self, most_tokens: int) -> dict[int, int]:
        """Requests at once, by their length, up to ``most_tokens``."""
        return {tokens: self.requests(tokens) for tokens in CONTEXTS if tokens <= most_tokens}


def cache_token_bytes(config: ModelConfig, cache: str, scaled: bool = False) -> float:
    """One token's latents over all layers; every device of a ``tp`` group keeps a copy. ``scaled``: as
    Fullbore keeps FP8, with a factor for each 128 latents and the rotated key in bf16."""
    if cache == "fp8" and scaled:
        factors = -(-config.kv_lora_rank // _FP8_SCALED) * _SCALE_BYTES
        row = config.kv_lora_rank + factors + config.qk_rope_head_dim * _ROPE_BYTES
        return config.num_hidden_layers * float(row)
    return config.num_hidden_layers * config.latent_dim * CACHE_BYTES[cache]


def activation_bytes(setting: Setting, chunk_tokens: int) -> float:
    """The most that a chunk holds at once on one device: in attention, or between an expert layer's products.

    Residual stream, what is added to it and its normalised copy throughout; activations are bf16.
    """
    config, layout = setting.config, setting.layout
    heads = config.num_attention_heads // layout.tp
    tokens = -(-chunk_tokens // layout.dp)
    stream = 3 * config.hidden_size
    queries = (config.q_lora_rank or 0) + config.latent_dim
    attention = queries + heads * (2 * config.qk_head_dim + 2 * config.v_head_dim + config.qk_nope_head_dim)
    # Every visit of a token to an expert has a row: gate and up, their product, and its share of the output.
    at_once = min(1.0, _MOST_ROUTED / tokens)  # engines send longer chunks through the experts in pieces
    visits = at_once * config.num_experts_per_tok / layout.ep * layout.dp
    visit = 3 * config.moe_intermediate_size // layout.expert_tp + config.hidden_size
    return 2.0 * tokens * (stream + max(attention, visits * visit))


def memory(setting: Setting, used_share: float, chunk_tokens: int = USUAL_CHUNK) -> Memory:
    """With ``used_share`` of each device's memory in use; what is left for the cache may be below 0."""
    capacity = setting.server.device.memory_bytes.value
    drafts = setting.drafts > 0
    weights = weight_bytes(setting.config, setting.layout, on_accelerators(setting.recipe), drafts)
    workspace = _FIXED_BYTES + activation_bytes(setting, chunk_tokens)
    left = capacity * used_share - sum(weights.values()) - workspace
    token = cache_token_bytes(setting.config, setting.cache)
    if drafts:
        token *= 1 + setting.config.num_nextn_predict_layers / setting.config.num_hidden_layers
    tokens = int(max(0.0, left) / (token + _PAGE_NUMBER_BYTES / _PAGE)) * setting.layout.dp
    return Memory(capacity, used_share, weights, workspace, left, token, tokens)


def check_memory(
    setting: Setting, used_share: float | None, request_tokens: int, chunk_tokens: int = USUAL_CHUNK
) -> Memory:
    """The memory of ``setting``; CapacityError, with what would fit, where not one such request does.

    used_share: None for the usual one, or the most where the usual one does not hold a request.
    """
    shares = (USUAL_SHARE, MOST_SHARE) if used_share is None else (used_share,)
    for share in shares:
        found = memory(setting, share, chunk_tokens)
        if found.requests(request_tokens) >= setting.layout.dp:
            return found
    used_share = found.used_share
    server = setting.server
    tokens = f"{found.cache_tokens} tokens of {setting.cache} cache" if found.cache_bytes > 0 else "no cache"
    fits = list(_alternatives(setting, used_share, request_tokens, chunk_tokens))[:_MOST_SUGGESTIONS]
    raise CapacityError(
        f"{setting.recipe.name} weights in layout {setting.layout} take {found.weight_bytes / 1e9:.1f} GB of "
        f"each {server.device.name} ({found.device_bytes / 1e9:.0f} GB, {used_share:g} of it used) and leave "
        f"{tokens}, but a request needs {request_tokens}; what would fit: "
        f"{'; '.join(fits) or 'a shorter request'}"
    )


def _alternatives(setting: Setting, used_share: float, tokens: int, chunk_tokens: int) -> Iterator[str]:
    """One thing changed at a time, the cheapest first, each in the words of the flags."""

    def fits(changed: Setting, share: float = used_share) -> bool:
        return memory(changed, share, chunk_tokens).requests(tokens) >= changed.layout.dp

    here = setting.server
    for cache in CACHE_BYTES:
        if CACHE_BYTES[cache] < CACHE_BYTES[setting.cache] and fits(replace(setting, cache=cache)):
            yield f"--kv {cache}"
    if used_share < MOST_SHARE and fits(setting, MOST_SHARE):
        yield f"--memory-fraction {MOST_SHARE}"
    smaller = chunk_tokens // 4
    if memory(setting, used_share, smaller).requests(tokens) >= setting.layout.dp:
        yield f"prompts in chunks of {smaller} tokens"
    layouts = [replace(setting, layout=layout) for layout in possible_layouts(setting.config, here.count)]
    best = max(layouts, key=lambda changed: memory(changed, used_share, chunk_tokens).cache_tokens)
    if fits(best) and best.layout != setting.layout:
        yield f"--layout {best.layout}"
    for recipe in RECIPES.values():
        if recipe.experts.bytes < setting.recipe.experts.bytes and fits(replace(setting, recipe=recipe)):
            yield f"--weights {recipe.name}"
    for device in sorted(catalogue(), key=lambda device: device.memory_bytes.value):
        server = Server(f"{here.count}x{device.name}", device, here.count)
        if device.memory_bytes.value > here.device.memory_bytes.value and fits(
            replace(setting, server=server)
        ):
            yield f"--server {server.name}"
            break
    for count in (2 * here.count, 4 * here.count):
        server = Server(f"{count}x{here.device.name}", here.device, count)
        for layout in possible_layouts(setting.config, count):
            if layout.dp == layout.ep == 1 and fits(replace(setting, server=server, layout=layout)):
                yield f"--server {server.name} --layout {layout}"
                return
