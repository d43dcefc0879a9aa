"""A whole decode step of one rank: its operators, each by its fastest kernel, and the links between ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.operators import Row
from fullbore.hardware.servers import find_server
from fullbore.model.config import parse_config
from fullbore.model.make_checkpoint import config_fields
from fullbore.parallel.layout import parse_layout
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.network import find_recipe
from fullbore.steptime.profiles import find_profile
from fullbore.steptime.step import COLLECTIVES, Step

SERVER = "8xh200"  # whose links join the ranks


@dataclass(frozen=True)
class RankStep:
    """Milliseconds. ``missing``: parts that have no time, which the sum lacks."""

    layout: str
    batch: int
    context: int
    operators_ms: float
    floor_ms: float
    links_ms: float
    missing: tuple[str, ...] = ()

    @property
    def total_ms(self) -> float:
        return self.operators_ms + self.links_ms


def rank_step(layout: str, parts: Iterable[str], rows: Sequence[Row], batch: int, context: int) -> RankStep:
    """The sum over ``parts`` of what ``rows`` have at this step."""
    operators = floor = 0.0
    missing = []
    for part in parts:
        known = [
            row
            for row in rows
            if (row.layout, row.part, row.batch) == (layout, part, batch)
            and row.context in (0, context)
            and row.us
        ]
        if not known:
            missing.append(part)
            continue
        best = min(known, key=lambda row: row.us)
        operators += best.calls * best.us
        floor += best.calls * best.floor_us
    links = links_ms(layout, batch, context)
    return RankStep(layout, batch, context, operators / 1e3, floor / 1e3, links, tuple(missing))


def links_ms(layout: str, batch: int, context: int) -> float:
    """Of the 671B model's step on eight devices, by the link model of ``fullbore plan``."""
    server, model = find_server(SERVER), "deepseek-v3"
    config = parse_config(config_fields(model), model)
    setting = Setting(config, server, parse_layout(layout), find_recipe("fp8"))
    times = StepTime(setting, find_profile("fullbore", server.device).factors)
    return 1e3 * times.of(Step.of([context] * batch)).terms_s[COLLECTIVES]
