"""Arithmetic written out digit by digit, the way the demo model is to think."""


def add_steps(a: int, b: int) -> list[str]:
    """Lines that add two natural numbers column by column from the right; the last line is ``= sum``."""
    if a < 10 and b < 10:
        return [f"{a} + {b} = {a + b}"]
    left, right = _of_one_width(a, b)
    lines, carry = [f"{left} + {right}:"], 0
    for digits in zip(reversed(left), reversed(right), strict=True):
        total = sum(map(int, digits)) + carry
        terms = [*digits, "1"] if carry else digits
        carry = total // 10
        lines.append(f"{' + '.join(terms)} = {total}" + (", carry 1" if carry else ""))
    return [*lines, f"= {a + b}"]


def subtract_steps(a: int, b: int) -> list[str]:
    """Lines that take ``b`` from ``a >= b`` by columns from the right; the last is ``= difference``."""
    if a < 10:
        return [f"{a} - {b} = {a - b}"]
    left, right = _of_one_width(a, b)
    lines, borrow = [f"{left} - {right}:"], 0
    for digit, under in zip(reversed(left), reversed(right), strict=True):
        taken = [under, "1"] if borrow else [under]
        left_over = int(digit) - sum(map(int, taken))
        borrow = int(left_over < 0)
        top = int(digit) + 10 * borrow
        lines.append(
            f"{' - '.join([str(top), *taken])} = {left_over + 10 * borrow}" + (", borrow 1" if borrow else "")
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


def _of_one_width(a: int, b: int) -> tuple[str, str]:
    """Both with zeros in front of the shorter: a column's digits then always stand equally far apart."""
    width = max(len(str(a)), len(str(b)))
    return f"{a:0{width}}", f"{b:0{width}}"
