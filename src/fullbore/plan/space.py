"""Every way to run a model on a server that is worth a try, and why others are not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullbore.errors import CapacityError, UsageError
from fullbore.hardware.servers import Server
from fullbore.model.config import ModelConfig
from fullbore.parallel.layout import Layout, check_layout, possible_layouts
from fullbore.plan.demand import Demand
from fullbore.plan.memory import check_memory
from fullbore.plan.trial import Trial
from fullbore.steptime.model import Setting
from fullbore.steptime.network import Recipe, find_recipe
from fullbore.steptime.profiles import Profile

USUAL_CHUNKS = (0, 2048, 8192)


@dataclass(frozen=True)
class Space:
    """What is varied. chunks, running: 0 for the engine's own. drafts: tokens of MTP, 0 for none."""

    layouts: Sequence[Layout]
    recipes: Sequence[Recipe]
    caches: Sequence[str] = ("bf16", "fp8")
    chunks: Sequence[int] = USUAL_CHUNKS
    running: Sequence[int] = (0,)
    drafts: Sequence[int] = (0,)
    acceptance: float = 0.0
    used_share: float | None = None

    def __len__(self) -> int:
        """How many ways there are, whether they fit or not."""
        pairs = len(self.layouts) * len(self.recipes) * len(self.caches) * len(self.drafts)
        return pairs * len(self.chunks) * len(self.running)


@dataclass(frozen=True)
class Unfit:
    """A setting that memory does not hold, and why."""

    setting: Setting
    why: str


def layouts_of(config: ModelConfig, server: Server) -> list[Layout]:
    """All that are possible; UsageError, with the counts that are, where there is none."""
    found = possible_layouts(config, server.count)
    if not found:
        check_layout(Layout(tp=server.count), config, server.count)
    return found


def usual_recipes(server: Server) -> list[Recipe]:
    """The stored format of the checkpoint, and FP4 where the device multiplies it.

    Narrower formats than a device's units know are left to who asks for them: they change the answers.
    """
    names = ["fp8", *(["fp4"] if server.device.fp4_flop_s else [])]
    return [find_recipe(name) for name in names]


def trials(
    config: ModelConfig, server: Server, profile: Profile, space: Space, demands: Sequence[Demand]
) -> Iterator[Trial | Unfit]:
    """Every way of ``space``, the simplest layout first; memory must hold the longest request."""
    longest = max(demand.most_tokens for demand in demands)
    if longest > config.max_position_embeddings:
        raise UsageError(
            f"a request of {longest} tokens; the model has {config.max_position_embeddings} positions"
        )
    for layout in sorted(space.layouts, key=lambda each: (each.dp, each.ep)):
        for recipe in space.recipes:
            for cache in space.caches:
                for drafts in space.drafts:
                    setting = Setting(config, server, layout, recipe, cache, drafts)
                    yield from _fitting(setting, profile, space, longest)


def _fitting(setting: Setting, profile: Profile, space: Space, longest: int) -> Iterator[Trial | Unfit]:
    try:
        held = check_memory(setting, space.used_share, longest)
    except CapacityError as error:
        yield Unfit(setting, str(error))
        return
    first = Trial(setting, profile, held, space.acceptance if setting.drafts else 0.0)
    own = profile.policy
    for chunk in dict.fromkeys(chunk or own.chunk_tokens for chunk in space.chunks):
        for running in dict.fromkeys(running or own.most_running for running in space.running):
            yield first.with_policy(chunk, running)
