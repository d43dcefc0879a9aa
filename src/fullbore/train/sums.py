"""Arithmetic written out digit by digit, the way the demo model is to think."""


def add_steps(a: int, b: int) -> list[str]:
    """Lines that add two natural numbers column by column from the right; the last line is ``= sum``."""
    if a < 10 and b < 10:
        return [f"{a} + {b} = {a + b}"]
    lines, carry = [f"{a} + {b}:"], 0
    left, right = str(a)[::-1], str(b)[::-1]
    for column in range(max(len(left), len(right))):
        digits = [text[column] for text in (left, right) if column < len(text)]
        total = sum(map(int, digits)) + carry
        terms = digits + (["1"] if carry else [])
        carry = total // 10
        lines.append(f"{' + '.join(terms)} = {total}" + (", carry 1" if carry else ""))
    return [*lines, f"= {a + b}"]


def subtract_steps(a: int, b: int) -> list[str]:
    """Lines that take ``b`` from ``a >= b`` by columns from the right; the last is ``= difference``."""
    if a < 10:
        return [f"{a} - {b} = {a - b}"]
    lines, borrow = [f"{a} - {b}:"], 0
    left, right = str(a)[::-1], str(b)[::-1]
    for column, digit in enumerate(left):
        top, taken = int(digit), [right[column]] if column < len(right) else []
        taken += ["1"] if borrow else []
        short = top < sum(map(int, taken))
        top += 10 if short else 0
        borrow = int(short)
        lines.append(
            f"{' - '.join([str(top), *taken])} = {top - sum(map(int, taken))}"
            + (", borrow 1" if short else "")
        )
    return [*lines, f"= {a - b}"]


def multiply_steps(a: int, b: int) -> list[str]:
    """Lines that multiply ``a`` by one digit ``b`` by columns from the right; the last is ``= product``."""
    if a < 10:
        return [f"{a} * {b} = {a * b}"]
    lines, carry = [f"{a} * {b}:"], 0
    for column, digit in enumerate(reversed(str(a))):
        product = int(digit) * b
        total = product + carry
        line = f"{digit} * {b} = {product}" + (f", {product} + {carry} = {total}" if carry else "")
        carry = total // 10
        last = column == len(str(a)) - 1
        lines.append(line + (f", carry {carry}" if carry and not last else ""))
    return [*lines, f"= {a * b}"]
