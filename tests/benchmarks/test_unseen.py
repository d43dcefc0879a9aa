"""Published results that were never fitted: they are read, are none of the fitted ones, and are predicted."""

import pytest

from benchmarks.fit import rows
from benchmarks.unseen import UNSEEN, Seen, cells, errors, expect
from fullbore.steptime.step import Interval

ROWS = rows(UNSEEN)


def test_no_row_was_fitted() -> None:
    def point(row: object) -> tuple[object, ...]:
        return tuple(
            getattr(row, name) for name in ("server", "engine", "weights", "layout", "ttft_ms", "tpot_ms")
        )

    fitted = {(row.server, row.engine, row.layout, row.weights, row.load) for row in rows()}
    assert not fitted & {(row.server, row.engine, row.layout, row.weights, row.load) for row in ROWS}
    assert not {point(row) for row in rows()} & {point(row) for row in ROWS}
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_long_prompts_and_other_formats_are_among_them() -> None:
    assert {row.load.input_tokens for row in ROWS} == {1024, 8192}
    assert {row.weights for row in ROWS} == {"fp8", "fp4"}
    assert any("dp" in row.layout for row in ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.load.concurrency == 8], ids=lambda row: row.id)
def test_every_kind_of_row_has_room_and_a_figure(row: object) -> None:
    found = expect(row)  # type: ignore[arg-type]
    assert found.tpot_ms is not None
    assert found.ttft_ms is not None
    assert cells([found]).startswith("1 | ")


def test_errors_by_hand() -> None:
    pairs = [(100.0, Interval(110, 90, 130)), (100.0, Interval(70, 60, 80))]
    error, bias, inside = errors(pairs)
    assert (error, bias, inside) == (pytest.approx(0.2), pytest.approx(-0.1), 0.5)
    assert "no room" in cells([Seen(ROWS[0], None, None)])
