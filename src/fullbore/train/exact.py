"""Counting exact answers, whoever gave them."""

from collections.abc import Sequence

from fullbore.train.demo_data import Question, is_exact
from fullbore.train.tokens import END_THINK


def count_exact(
    asked: Sequence[Question], replies: Sequence[str], show: int = 0
) -> dict[str, tuple[int, int]]:
    """kind -> (exact, asked); prints the first ``show`` that went wrong. A reply has its thought in it."""
    result: dict[str, tuple[int, int]] = {}
    for question, reply in zip(asked, replies, strict=True):
        visible = reply.partition(END_THINK)[2]
        right = is_exact(visible, question.answer)
        exact, total = result.get(question.kind, (0, 0))
        result[question.kind] = (exact + right, total + 1)
        if not right and show > 0:
            show -= 1
            print(
                f"  wrong: {question.messages[-1]['content']!r} -> {reply!r} (expected {question.answer!r})",
                flush=True,
            )
    return result
