"""Sums on paper: each line is replayed as a pupil would, digits and carries, never trusting the last line."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.train.sums import add_steps, multiply_steps, subtract_steps

numbers = st.one_of(st.integers(0, 9), st.integers(0, 999), st.integers(0, 10**7))
unhurried = settings(max_examples=100)


def parsed(pattern: str, line: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    assert found, f"{line!r} is not of the form {pattern}"
    return tuple(part or "" for part in found.groups())


def digits_of(number: int, count: int) -> list[int]:
    """From the right; 0 beyond the first digit."""
    return [number // 10**n % 10 for n in range(count)]


@unhurried
@given(numbers, numbers)
def test_additions_carry_as_on_paper(a: int, b: int) -> None:
    lines = add_steps(a, b)
    if a < 10 and b < 10:
        assert lines == [f"{a} + {b} = {a + b}"]
        return
    columns, carry, written = lines[1:-1], 0, ""
    width = max(len(str(a)), len(str(b)))
    assert (lines[0], lines[-1]) == (f"{str(a).zfill(width)} + {str(b).zfill(width)}:", f"= {a + b}")
    assert len(columns) == width
    for line, *pair in zip(columns, digits_of(a, len(columns)), digits_of(b, len(columns)), strict=True):
        terms, total, carried = parsed(r"(\d(?: \+ \d)*) = (\d+)(, carry 1)?", line)
        expected = pair + [1] * carry
        assert [int(term) for term in terms.split(" + ")] == expected
        assert int(total) == sum(expected)
        carry = int(total) // 10
        assert bool(carried) == bool(carry)
        written = str(int(total) % 10) + written
    assert int(f"{carry}{written}") == a + b


@unhurried
@given(numbers, numbers)
def test_subtractions_borrow_as_on_paper(a: int, b: int) -> None:
    a, b = max(a, b), min(a, b)
    lines = subtract_steps(a, b)
    if a < 10:
        assert lines == [f"{a} - {b} = {a - b}"]
        return
    assert (lines[0], lines[-1]) == (f"{a} - {str(b).zfill(len(str(a)))}:", f"= {a - b}")
    columns, borrow, written = lines[1:-1], 0, ""
    assert len(columns) == len(str(a))
    for line, top, bottom in zip(
        columns, digits_of(a, len(columns)), digits_of(b, len(columns)), strict=True
    ):
        terms, result, borrowed = parsed(r"(\d+(?: - \d)*) = (\d)(, borrow 1)?", line)
        first, *taken = map(int, terms.split(" - "))
        assert first == top + (10 if borrowed else 0)
        assert taken == [bottom] + [1] * borrow
        assert int(result) == first - sum(taken)
        borrow = int(bool(borrowed))
        written = result + written
    assert not borrow
    assert int(written) == a - b


@unhurried
@given(numbers, st.integers(0, 9))
def test_products_carry_as_on_paper(a: int, b: int) -> None:
    lines = multiply_steps(a, b)
    if a < 10:
        assert lines == [f"{a} * {b} = {a * b}"]
        return
    assert (lines[0], lines[-1]) == (f"{a} * {b}:", f"= {a * b}")
    columns, carry, written = lines[1:-1], 0, ""
    for line, digit in zip(columns, digits_of(a, len(columns)), strict=True):
        pattern = r"(\d) \* (\d) = (\d+)(?:, (\d+) \+ (\d) = (\d+))?(?:, carry (\d))?"
        top, by, product, before, added, total, carried = parsed(pattern, line)
        assert (int(top), int(by), int(product)) == (digit, b, int(top) * b)
        assert bool(added) == bool(carry)
        if added:
            assert (before, int(added), int(total)) == (product, carry, int(product) + carry)
        value = int(product) + carry
        last = line is columns[-1]
        carry = value // 10
        assert carried == ("" if last or not carry else str(carry))
        written = (str(value) if last else str(value % 10)) + written
    assert len(columns) == len(str(a))
    assert int(written) == a * b
