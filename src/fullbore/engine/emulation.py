"""One rank of a layout, alone on one device: what the flags say becomes the network's role, and what is told.

No torch: the server checks the flags with this before it starts an engine.
"""

from dataclasses import dataclass, replace

from fullbore.engine.options import EngineOptions
from fullbore.errors import UsageError
from fullbore.hardware.servers import Server, find_server
from fullbore.model.config import ModelConfig
from fullbore.parallel.balance import NATURAL, expert_table, parse_balance
from fullbore.parallel.collectives import Links
from fullbore.parallel.layout import check_layout, parse_layout
from fullbore.parallel.rank import Rank, Role, parse_rank
from fullbore.steptime.profiles import find_profile

# Whose links they are where only their kind is named.
LINKS = {"xgmi": "8xMI300X", "nvlink": "8xH200", "pcie": "8xRTX-PRO-6000"}
USUAL_ROUTING = "1.2"  # the busiest device's share of real prompts, as the step-time model has it
MEANINGLESS = "outputs are meaningless"


@dataclass(frozen=True)
class Emulation:
    """role: of the network. notes: what to tell a person, a line each. mark: what every answer carries, ""
    where the model is the one that was asked for. groups: data-parallel ones, each with as much load as this.
    """

    role: Role
    mark: str = ""
    notes: tuple[str, ...] = ()
    groups: int = 1


def emulation_of(options: EngineOptions, config: ModelConfig, usual_links: str = "xgmi") -> Emulation:
    """UsageError for flags that do not go together, or do not divide the model."""
    if not options.emulate_rank:
        _refuse_without_rank(options)
        if not options.random_weights:
            return Emulation(Role())
        balance = parse_balance(options.routing or NATURAL)
        role = Role(balance=balance, distinct_layers=_layers(options, config))
        notes = ["random weights", *_routing_note(role), *_layers_note(role, config)]
        return Emulation(role, f"random weights; {MEANINGLESS}", tuple(notes))
    if not options.layout:
        raise UsageError(
            f"--emulate-rank {options.emulate_rank} needs the --layout that it is a rank of, such as tp8 "
            "or ep8dp8"
        )
    layout = parse_layout(options.layout)
    index = parse_rank(options.emulate_rank, layout)
    check_layout(layout, config, layout.devices)
    links, told = links_of(options.links or usual_links, layout.devices)
    # A checkpoint's own gate knows better which experts tokens go to; random ones know nothing.
    routing = options.routing or (USUAL_ROUTING if options.random_weights else NATURAL)
    balance = parse_balance(routing)
    if balance is not None and layout.ep == 1:  # a part of every expert is here: no device is busier
        balance = replace(balance, busiest=1.0)
    role = Role(Rank(layout, index, links), _layers(options, config), balance)
    if role.balance is not None:
        experts = config.n_routed_experts
        expert_table(role.balance, role.rank.experts(experts), experts, config.num_experts_per_tok, 0)
    notes = [
        f"{role.rank}, alone on this device; exchanges are waits, {told}",
        *(["random weights"] if options.random_weights else []),
        *_routing_note(role),
        *_layers_note(role, config),
    ]
    if layout.dp > 1:
        notes.append(
            f"one of {layout.dp} data-parallel groups: the server has {layout.dp} times its requests and "
            "its rates"
        )
    return Emulation(role, f"emulated {role.rank}; {MEANINGLESS}", tuple(notes), layout.dp)


def links_of(text: str, devices: int) -> tuple[Links, str]:
    """The links that ``--links`` names, between so many devices, and what they do in a sentence."""
    server: Server = find_server(LINKS.get(text.lower(), text))
    device, factors = server.device, find_profile("fullbore", server.device).factors
    rate, hop_s = device.link_bytes_s.value * factors.link, factors.hop_us * 1e-6
    told = (
        f"as over the links of {devices} {device.name} ({device.topology}, {rate / 1e9:.0f} GB/s each, "
        f"{factors.hop_us:.1f} us an exchange)"
    )
    return Links(devices, device.topology, rate, hop_s), told


def _refuse_without_rank(options: EngineOptions) -> None:
    for flag, value in (("--layout", options.layout), ("--links", options.links)):
        if value:
            raise UsageError(
                f"{flag} {value} says how a model lies on several devices, and this runs on one; leave it "
                "out, or run one device's part alone with --emulate-rank 0/8"
            )
    if not options.random_weights:
        for flag, given in (("--routing", options.routing), ("--emulate-layers", options.emulate_layers)):
            if given:
                raise UsageError(
                    f"{flag} {given} would make the answers wrong; it goes with --emulate-rank or "
                    "--random-weights"
                )


def _layers(options: EngineOptions, config: ModelConfig) -> int:
    wanted, all_layers = options.emulate_layers, config.num_hidden_layers
    if not wanted:
        return 0
    least = 2 if 0 < config.first_k_dense_replace < all_layers else 1
    if not least <= wanted <= all_layers:
        raise UsageError(f"--emulate-layers {wanted}, expected {least} to {all_layers} for this model")
    return 0 if wanted == all_layers else wanted


def _routing_note(role: Role) -> list[str]:
    balance = role.balance
    if balance is None:
        return ["experts as the gate chooses"]
    how = "all alike" if not balance.evenness else "as uneven as under real prompts"
    busiest = f", this device's {balance.busiest:g} times the mean" if balance.busiest > 1 else ""
    return [f"experts drawn, {how}{busiest}"]


def _layers_note(role: Role, config: ModelConfig) -> list[str]:
    if not role.distinct_layers:
        return []
    layers = config.num_hidden_layers
    return [f"all {layers} layers are computed, with the weights of {role.distinct_layers} of them"]
