"""An operating point for a person: the figures, where a token's time goes, and what the answer rests on."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fullbore.plan.point import Point
from fullbore.steptime.step import Interval


def page(point: Point) -> Group:
    """The point as it is printed."""
    return Group(*_parts(point))


def _parts(point: Point) -> Iterator[RenderableType]:
    setting, load, profile = point.setting, point.load, point.profile
    lengths = f"{load.input_tokens} tokens in, {load.output_tokens} out"
    if load.length_range < 1:
        lengths += f" (uniform from {load.length_range:g} of these)"
    epoch = f" {profile.epoch}" if profile.epoch else ""
    yield Text(
        f"{setting.server.name} · {profile.title}{epoch} · {setting.recipe.name} weights, "
        f"{setting.cache} KV · {setting.layout}{f' · MTP {setting.drafts}' if setting.drafts else ''}\n"
        f"{load.concurrency} in flight, {lengths}, {load.requests} requests",
        style="bold",
    )
    if setting.server.note:
        yield Text(setting.server.note)
    yield Text()
    yield _figures(point)
    yield Text()
    yield Text("Where the time of a token goes", style="bold")
    yield _split(point)
    yield Text(
        f"floor {point.floor_ms:.1f} ms ({point.floor_ms / point.tpot_ms.mean:.0%}): touched weights and the "
        f"cache of {point.outcome.decodes:.0f} decodes, once through memory"
    )
    yield Text()
    yield Text(_memory(point))
    yield Text()
    yield Text(f"Rests on: {profile.rests_on}.")
    for note in profile.notes:
        yield Text(f"Note: {note}.")


def _figures(point: Point) -> Table:
    made = table("", "mean", "80 of 100 lie between", "")
    for name, interval, unit in (
        ("TPOT", point.tpot_ms, "ms"),
        ("TTFT", point.ttft_ms, "ms"),
        ("output", point.output_tok_s, "tok/s"),
        ("total", point.total_tok_s, "tok/s"),
    ):
        made.add_row(name, number(interval.mean), span(interval), unit)
    return made


def _split(point: Point) -> Table:
    made = table("", "ms", "of TPOT")
    for kind, part_ms in sorted(point.parts_ms.items(), key=lambda item: -item[1]):
        share = part_ms / point.tpot_ms.mean
        if share >= 0.001:
            made.add_row(kind, f"{part_ms:.2f}", f"{share:.1%}")
    return made


def _memory(point: Point) -> str:
    held = point.memory
    tokens = point.load.input_tokens + point.load.output_tokens
    at_once = held.requests(tokens)
    used_gb = held.device_bytes * held.used_share / 1e9
    text = (
        f"Memory of each device: {used_gb:.1f} GB ({held.used_share:g} of it) are "
        f"{held.weight_bytes / 1e9:.1f} GB weights, {held.workspace_bytes / 1e9:.2f} GB workspace and "
        f"{held.cache_bytes / 1e9:.1f} GB cache; the server caches {held.cache_tokens:,} tokens, "
        f"{at_once:,} such requests at full length"
    )
    if at_once < point.load.concurrency:
        text += f": of {point.load.concurrency} in flight some wait for memory"
    return text + "."


def span(interval: Interval) -> str:
    """The range, in words."""
    return f"{number(interval.p10)} to {number(interval.p90)}"


def number(value: float) -> str:
    """As many digits as are worth reading."""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def table(*names: str) -> Table:
    """An empty table: its first column is text, the others are numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(names):
        made.add_column(name, justify="left" if place == 0 or not name else "right")
    return made
