"""The probes of a GPU, on the CPU by a clock that the test winds."""

import pytest
import torch
from fake_stream import FakeStream

from fullbore.hardware.ceiling import Ceiling
from fullbore.tune import device_probes


class Timed(FakeStream):
    """Every run takes a millisecond, the first ones longer, as where clocks are still low."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def seconds(self, run: object) -> float:
        run()  # type: ignore[operator]
        self.runs += 1
        return 4e-3 if self.runs % 7 else 1e-3


def test_rates_are_those_of_the_best_reading() -> None:
    made = device_probes._Measured(Timed(), "cpu", read_bytes=1 << 20, size=64)
    calls = device_probes.CALLS
    assert made.read_bytes_s() == pytest.approx((1 << 20) / (1e-3 / calls))
    assert made.flop_s("bfloat16") == pytest.approx(2 * 64**3 / (1e-3 / calls))


def test_products_that_a_device_lacks_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: object, **more: object) -> torch.Tensor:
        raise RuntimeError(
            "torch._scaled_mm is only supported on CUDA devices with compute capability >= 8.9"
        )

    monkeypatch.setattr("torch._scaled_mm", refuses)
    made = device_probes._Measured(Timed(), "cpu", read_bytes=1 << 20, size=64)
    assert made.flop_s("fp8") is None
    assert made.flop_s("float32") is None


def test_a_gpu_s_ceilings_name_what_it_multiplies() -> None:
    both = Ceiling(4.4e12, {"bfloat16": 7.9e14, "fp8": 1.5e15})
    assert (
        both.describe() == "reads 4400.0 GB/s, multiplies 790000 GFLOP/s in bfloat16, 1500000 GFLOP/s in fp8"
    )
    without = Ceiling(1.5e12, {"bfloat16": 2.5e14})
    assert without.describe().endswith("fp8 not measured")
    assert without.peak("fp8") == without.peak("bfloat16")
