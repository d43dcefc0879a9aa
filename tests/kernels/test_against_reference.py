"""Every kernel against its operator's float32 reference: each shape, case, weight format, type and CPU."""

import pytest
import torch
from every_kernel import instances

from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.contract import DTYPES, Job, Operator
from fullbore.ops.operators import OPERATORS


def everything() -> list[object]:
    rows = []
    for operator in OPERATORS.values():
        for format in operator.formats:
            for dtype in DTYPES:
                rows.append(pytest.param(operator, format, dtype, id=f"{operator.name}-{format}-{dtype}"))
    return rows


@pytest.mark.parametrize(("operator", "format", "dtype"), everything())
def test_kernel_agrees_with_the_reference(operator: Operator, format: str, dtype: str) -> None:
    generator = torch.Generator().manual_seed(11)
    kernels = [
        (name, kernel)
        for entry in CATALOGUE.on("cpu").candidates(operator.name)
        for name, kernel in instances(entry.load(), dtype)
    ]
    ran = 0
    for shape in operator.shapes:
        for case in operator.cases:
            drawn = operator.draw(shape, case, format, DTYPES[dtype], generator)
            job = Job.of(operator, drawn.weights, dtype, "cpu")
            expected = operator.reference(drawn.weights, *drawn.inputs)
            for name, kernel in kernels:
                if kernel.unsupported(job):
                    continue
                output = kernel.run(kernel.pack(*drawn.weights), *drawn.inputs)
                error = operator.error(output, expected)
                assert error <= operator.limit(format, dtype), f"{name} {case} {dict(shape)}: {error:.2e}"
                ran += 1
    assert ran, "no kernel took this format and type"
