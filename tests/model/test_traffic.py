"""The floor of a decode step: the published model's table, and what must hold for any model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.model.config import parse_config
from fullbore.model.presets import PRESETS
from fullbore.model.specs import count_parameters
from fullbore.model.traffic import step_traffic

V3 = parse_config(dict(PRESETS["deepseek-v3"]))
TINY = parse_config(dict(PRESETS["tiny"]))


@pytest.mark.parametrize(
    ("bandwidth_tb_s", "dialog_ms", "code_ms"),
    [(5.3, 17.2, 20.6), (4.8, 19.0, 22.7), (4.0, 22.8, 27.2), (6.0, 15.2, 18.2), (8.0, 11.4, 13.6)],
)
def test_the_671b_model_on_eight_devices(bandwidth_tb_s: float, dialog_ms: float, code_ms: float) -> None:
    """158 in flight at a mean context of 640, 140 at 2560: floors that were computed independently."""
    for (batch, context), floor_ms in (((158, 640), dialog_ms), ((140, 2560), code_ms)):
        step = step_traffic(V3, batch, context)
        assert step.device_bytes(8) / (bandwidth_tb_s * 1e9) == pytest.approx(floor_ms, rel=0.005)


def test_the_671b_model_has_its_published_sizes() -> None:
    one, many = step_traffic(V3, 1, 0), step_traffic(V3, 10_000, 1)
    assert one.experts_touched == pytest.approx(8)
    assert many.experts_touched == pytest.approx(256)
    assert many.latent_bytes == 10_000 * 70_272
    embedding = V3.vocab_size * V3.hidden_size
    assert one.flop / 2 == pytest.approx(count_parameters(V3).active - embedding, rel=1e-4)
    factors = 4 * 671e9 / 128**2  # one a block, which the published 672.99 GB leave out
    published = 672.99e9 - 2 * embedding + factors
    assert many.total_bytes - many.latent_bytes == pytest.approx(published, rel=1e-4)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 5000), st.integers(1, 64))
def test_more_work_never_reads_less_and_more_devices_never_read_more_each(
    batch: int, context: int, devices: int
) -> None:
    step = step_traffic(TINY, batch, context)
    assert step.total_bytes < step_traffic(TINY, batch + 1, context).total_bytes
    assert step.total_bytes < step_traffic(TINY, batch, context + 1).total_bytes
    assert step.device_bytes(1) == pytest.approx(step.total_bytes)
    assert step.total_bytes / devices <= step.device_bytes(devices) * (1 + 1e-12)
    assert step.device_bytes(devices + 1) < step.device_bytes(devices)
    assert (
        min(batch, 1) <= step.experts_touched <= min(TINY.n_routed_experts, batch * TINY.num_experts_per_tok)
    )
