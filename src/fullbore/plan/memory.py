"""What a device holds: its part of the weights, and the cache that the rest has room for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fullbore.errors import CapacityError
from fullbore.hardware.catalogue import catalogue
from fullbore.hardware.servers import Server
from fullbore.steptime.layout import possible_layouts
from fullbore.steptime.model import Setting
from fullbore.steptime.network import CACHE_BYTES, RECIPES, cache_token_bytes, weight_bytes

# Activations of a prompt's chunk, graphs and buffers of collectives, on each device.
_WORKSPACE_BYTES = 2.75e9
_MOST_SUGGESTIONS = 4
USUAL_SHARE, MOST_SHARE = 0.9, 0.97  # of a device's memory that engines use, and that they can


@dataclass(frozen=True)
class Memory:
    """In bytes, of each device; ``cache_tokens``: of the whole server."""

    device_bytes: float
    used_share: float
    weight_bytes: float
    workspace_bytes: float
    cache_bytes: float  # what is left for it
    cache_token_bytes: float
    cache_tokens: int

    def requests(self, tokens: int) -> int:
        """How many of so many tokens are in the cache at once."""
        return self.cache_tokens // tokens


def memory(setting: Setting, used_share: float) -> Memory:
    """With ``used_share`` of each device's memory in use; what is left for the cache may be below 0."""
    capacity = setting.server.device.memory_bytes.value
    weights = weight_bytes(setting.config, setting.layout, setting.recipe, setting.drafts > 0)
    left = capacity * used_share - weights - _WORKSPACE_BYTES
    token = cache_token_bytes(setting.config, setting.cache)
    if setting.drafts:
        token *= 1 + setting.config.num_nextn_predict_layers / setting.config.num_hidden_layers
    tokens = int(max(0.0, left) / token) * setting.layout.dp
    return Memory(capacity, used_share, weights, _WORKSPACE_BYTES, left, token, tokens)


def check_memory(setting: Setting, used_share: float | None, request_tokens: int) -> Memory:
    """The memory of ``setting``; CapacityError, with what would fit, where not one such request does.

    used_share: None for the usual one, or the most where the usual one does not hold a request.
    """
    shares = (USUAL_SHARE, MOST_SHARE) if used_share is None else (used_share,)
    for share in shares:
        found = memory(setting, share)
        if found.requests(request_tokens) >= setting.layout.dp:
            return found
    used_share = found.used_share
    server = setting.server
    tokens = f"{found.cache_tokens} tokens of {setting.cache} cache" if found.cache_bytes > 0 else "no cache"
    fits = list(_alternatives(setting, used_share, request_tokens))[:_MOST_SUGGESTIONS]
    raise CapacityError(
        f"{setting.recipe.name} weights in layout {setting.layout} take {found.weight_bytes / 1e9:.1f} GB of "
        f"each {server.device.name} ({found.device_bytes / 1e9:.0f} GB, {used_share:g} of it used) and leave "
        f"{tokens}, but a request needs {request_tokens}; what would fit: "
        f"{'; '.join(fits) or 'a shorter request'}"
    )


def _alternatives(setting: Setting, used_share: float, tokens: int) -> Iterator[str]:
    """One thing changed at a time, the cheapest first, each in the words of the flags."""

    def fits(changed: Setting, share: float = used_share) -> bool:
        return memory(changed, share).requests(tokens) >= changed.layout.dp

    here = setting.server
    for cache in CACHE_BYTES:
        if CACHE_BYTES[cache] < CACHE_BYTES[setting.cache] and fits(replace(setting, cache=cache)):
            yield f"--kv {cache}"
    if used_share < MOST_SHARE and fits(setting, MOST_SHARE):
        yield f"--memory-fraction {MOST_SHARE}"
    layouts = [replace(setting, layout=layout) for layout in possible_layouts(setting.config, here.count)]
    best = max(layouts, key=lambda changed: memory(changed, used_share).cache_tokens)
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
