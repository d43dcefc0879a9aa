"""A way to run a model on a server of the catalogue, by the step-time model; and what would change it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from fullbore.errors import CapacityError
from fullbore.parallel.layout import possible_layouts
from fullbore.plan.demand import Demand
from fullbore.plan.memory import Memory, check_memory
from fullbore.plan.point import accepted_tokens
from fullbore.plan.trial import Sized, Trial
from fullbore.steptime.factors import Deviation, Factors
from fullbore.steptime.model import Setting, StepTime
from fullbore.steptime.profiles import Profile

_TB_S = 1e12
_FINE_TILE = 16  # rows; the least that the matrix units of all catalogue devices take whole


class Modelled(Trial):
    """``profile``: the engine's factors on the device, and the policy that is tried."""

    profile: Profile

    def __init__(self, setting: Setting, profile: Profile, held: Memory, acceptance: float = 0.0) -> None:
        super().__init__(setting, profile, held)
        self.acceptance = acceptance
        self.gained = accepted_tokens(setting.drafts, acceptance)

    @cached_property
    def model(self) -> StepTime:
        """Built once: it remembers the times of token counts."""
        return StepTime(self.setting, self.profile.factors, captured=self.profile.policy.captured)

    @property
    def request_s(self) -> float:
        return self.profile.factors.request_ms / 1e3

    def deviation(self, load: Sized, decodes: float, context: float) -> Deviation:
        setting = self.setting
        return self.profile.deviation_at(
            load.concurrency, load.input_tokens, setting.recipe.name, setting.layout
        )

    def flags(self, model: str = "") -> str:
        setting, profile = self.setting, self.profile
        engine = profile.engine + (f"@{profile.epoch}" if profile.epoch else "")
        drafts = f" --mtp {setting.drafts} --acceptance {self.acceptance:g}" if setting.drafts else ""
        return (
            f"--server {setting.server.name} --engine {engine} --layout {setting.layout} "
            f"--weights {setting.recipe.name} --kv {setting.cache} --chunk {profile.policy.chunk_tokens} "
            f"--running {profile.policy.most_running} --memory-fraction {self.held.used_share:g}"
            f"{f' --config {model}' if model else ''}{drafts}"
        )

    def with_policy(self, chunk_tokens: int, most_running: int) -> "Modelled":
        policy = replace(self.profile.policy, chunk_tokens=chunk_tokens, most_running=most_running)
        found = Modelled(self.setting, replace(self.profile, policy=policy), self.held, self.acceptance)
        found.__dict__["model"] = self.model  # the step's time knows no policy
        return found

    def changes(self, demand: Demand, limit: int) -> Iterator[tuple[str, Trial]]:
        setting, factors = self.setting, self.profile.factors
        device = setting.server.device
        faster = replace(
            device,
            bandwidth_bytes_s=replace(device.bandwidth_bytes_s, value=device.bandwidth_bytes_s.value + _TB_S),
        )
        server = replace(setting.server, device=faster)
        yield "1 TB/s more memory bandwidth", self._with(replace(setting, server=server), factors)
        if setting.cache != "fp8":
            yield "FP8 KV cache", self._with(replace(setting, cache="fp8"), factors)
        if setting.layout.devices > 1:
            quick = replace(factors, hop_us=factors.hop_us / 2, link=factors.link * 2)
            yield "exchanges twice as fast", self._with(setting, quick)
        if factors.tile > _FINE_TILE:
            fine = replace(factors, tile=_FINE_TILE)
            yield f"expert tiles of {_FINE_TILE} rows instead of {factors.tile}", self._with(setting, fine)
        yield (
            "half the launches' time",
            self._with(setting, replace(factors, layer_us=factors.layer_us / 2)),
        )
        others = list(self._other_layouts(demand))
        if others:
            best = min(others, key=lambda other: other.at(demand, limit).tpot_ms)
            yield f"layout {best.setting.layout}", best

    def _other_layouts(self, demand: Demand) -> Iterator[Trial]:
        setting = self.setting
        for layout in possible_layouts(setting.config, setting.server.count):
            if layout != setting.layout:
                changed = replace(setting, layout=layout)
                try:
                    held = check_memory(changed, None, demand.most_tokens)
                except CapacityError:
                    continue
                yield Modelled(changed, self.profile, held, self.acceptance)

    def _with(self, setting: Setting, factors: Factors) -> Trial:
        """This with something changed that takes no more memory."""
        held = self.held
        if setting.cache != self.setting.cache:
            held = check_memory(setting, held.used_share, 1)
        return Modelled(setting, replace(self.profile, factors=factors), held, self.acceptance)
