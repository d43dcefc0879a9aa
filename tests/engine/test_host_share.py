"""The host's share of a step: of the whole engine, on a network that is hollow and complete."""

import torch

from fullbore.engine.host_share import HollowNetwork, host_us, step_us
from fullbore.model.checkpoint import Checkpoint
from fullbore.model.config import load_config
from fullbore.model.locate import locate


def test_a_hollow_network_runs_whole_steps() -> None:
    folder = locate("demo")
    config = load_config(folder)
    checkpoint = Checkpoint.open(folder, config)
    torch.set_num_threads(1)
    model = HollowNetwork(config, checkpoint, "float32")
    assert step_us(model, config.vocab_size, 3, warm=2, steps=2, turns=2) > 0
    assert model.swept_s > 0
    step, row = host_us(config, checkpoint, "float32")
    assert step > 0
    assert row >= 0
