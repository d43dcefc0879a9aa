"""The probe of a GPU's memory reads every value once."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (pip install 'fullbore[gpu]')")


@pytest.mark.parametrize("blocks", [1, 7, 40])
def test_every_value_is_read_once(blocks: int) -> None:
    from fullbore.kernels.triton.device import here
    from fullbore.kernels.triton.probe import PROGRAMS, SIZE, read

    values = torch.randint(-100, 100, (blocks * SIZE,), dtype=torch.int32, device=here().device)
    sums = read(values)
    assert len(sums) == min(blocks, PROGRAMS * here().processors)
    assert sums.sum() == values.sum()
