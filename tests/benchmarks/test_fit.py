"""The accuracy that docs/planning.md states: published rows, predicted by factors that have not seen them."""

import json
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fit import ROW_TPOT, Row, compose, fit, predict, rows, start
from benchmarks.judge import LEFT_OUT
from fullbore.hardware.servers import find_server
from fullbore.steptime.factors import Factors
from fullbore.steptime.profiles import find_profile
from fullbore.steptime.step import Z80

ROWS = rows()
GROUPS = sorted({row.group for row in ROWS})
UNSEEN = json.loads(LEFT_OUT.read_text())
MOST_UNSEEN = (0.10, 0.25)  # TPOT, TTFT
# Its FP8 experts reach less than half of what operator times of a later version say.
LIMITS = {"8xb200 sglang": (0.11, 0.25)}


def mean_errors(chosen: list[Row], factors: Factors) -> tuple[float, float]:
    """Mean of |prediction / truth - 1| of TPOT and of TTFT."""
    pairs = []
    for row in chosen:
        tpot_ms, ttft_ms = predict(row, factors)
        pairs.append((abs(tpot_ms / row.tpot_ms - 1), abs(ttft_ms / row.ttft_ms - 1)))
    return float(np.mean([pair[0] for pair in pairs])), float(np.mean([pair[1] for pair in pairs]))


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_was_left_out(group: str) -> None:
    chosen = [row for row in ROWS if row.group == group]
    tpot, ttft = mean_errors(chosen, Factors(**UNSEEN[group]["factors"]))
    assert tpot == pytest.approx(UNSEEN[group]["tpot_error"], abs=1e-3)
    assert ttft == pytest.approx(UNSEEN[group]["ttft_error"], abs=1e-3)
    most_tpot, most_ttft = LIMITS.get(group, MOST_UNSEEN)
    assert tpot <= most_tpot
    assert ttft <= most_ttft


def test_the_shipped_factors_and_their_intervals() -> None:
    inside: dict[str, list[bool]] = defaultdict(list)
    for group in GROUPS:
        chosen = [row for row in ROWS if row.group == group]
        profile = find_profile(chosen[0].engine, find_server(chosen[0].server).device)
        assert profile.basis == "fitted"
        tpot, ttft = mean_errors(chosen, profile.factors)
        assert tpot < 0.06
        assert ttft < 0.2
        for row in chosen:
            tpot_ms, ttft_ms = predict(row, profile.factors)
            inside["tpot"].append(abs(math.log(row.tpot_ms / tpot_ms)) <= Z80 * profile.deviation.step)
            inside["ttft"].append(abs(math.log(row.ttft_ms / ttft_ms)) <= Z80 * profile.deviation.ttft)
    # The interval is that of unseen loads, so seen ones lie inside at least as often.
    assert np.mean(inside["tpot"]) >= 0.8
    assert np.mean(inside["ttft"]) >= 0.8


def test_rows_of_a_known_machine_are_fitted_back() -> None:
    """Rows made by the model itself, with bandwidth and launches moved: the fit must move there."""
    true = {**start(ROWS), ("memory", "nvidia"): 0.7, ("layer_us", "nvidia"): 130.0}
    some = [row for row in ROWS if row.group == "8xh200 sglang" and row.load.output_tokens == 1024]
    factors = compose(true, "nvidia", "hopper", "sglang")
    made = []
    for row in some:
        tpot_ms, ttft_ms = predict(row, factors)
        made.append(replace(row, tpot_ms=tpot_ms, ttft_ms=ttft_ms))
    found = compose(fit(made, start(made), 2), "nvidia", "hopper", "sglang")
    assert mean_errors(made, compose(start(made), "nvidia", "hopper", "sglang"))[0] > 0.1
    assert mean_errors(made, found)[0] < ROW_TPOT / 2
