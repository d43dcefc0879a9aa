"""Questions, thoughts and answers for the demo model, without end and from a seed.

A question belongs to the held-out eighth or to the training text by a hash of what it asks (for sums: of the
numbers; for words of the project: of the whole sentence), so the two never share a question.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from string import ascii_lowercase

from fullbore.errors import UsageError
from fullbore.train import demo_phrases as phrases
from fullbore.train import demo_topics as topics
from fullbore.train.sums import add_steps, multiply_steps, subtract_steps

SPLITS = ("train", "heldout")
HELD_OUT_SHARE = 8  # one question in so many is held out


@dataclass(frozen=True)
class Question:
    """``messages``: as a chat client sends them, the last by the user. ``key``: what decides its split."""

    kind: str
    key: str
    messages: tuple[dict[str, str], ...]
    thinking: str
    answer: str


def is_exact(answer_text: str, expected: str) -> bool:
    """Whether the visible answer is the expected one, white space at the ends and double blanks aside."""
    return " ".join(answer_text.split()) == " ".join(expected.split())


def split_of(key: str) -> str:
    """``train`` or ``heldout``. Keys that begin with ``fact:`` are too few to hold out: always ``train``."""
    if key.startswith("fact:"):
        return "train"
    return "heldout" if hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0 else "train"


@dataclass(frozen=True)
class _Draft:
    """One question before it has a conversation around it. ``value``: the number a next turn may build on."""

    key: str
    text: str
    thinking: str
    answer: str
    value: int | None = None


def _number(rng: Random, top_digits: int) -> int:
    digits = rng.randint(1, top_digits)
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def _key(name: str, *numbers: int) -> str:
    """Sums of one-digit numbers are facts to learn by heart, all others can be worked out."""
    return f"{'fact:' if max(numbers) < 10 else ''}{name}:" + ":".join(map(str, numbers))


def _addition(rng: Random) -> _Draft:
    a, b = _number(rng, 3), _number(rng, 3)
    text = rng.choice(phrases.ADD_ASKS).format(a, b)
    return _Draft(_key("add", a, b), text, "\n".join(add_steps(a, b)), str(a + b), a + b)


def _subtraction(rng: Random) -> _Draft:
    a, b = sorted((_number(rng, 3), _number(rng, 3)), reverse=True)
    if rng.random() < 0.2:
        text = rng.choice(phrases.TAKE_ASKS).format(b, a)
    else:
        text = rng.choice(phrases.SUBTRACT_ASKS).format(a, b)
    return _Draft(_key("subtract", a, b), text, "\n".join(subtract_steps(a, b)), str(a - b), a - b)


def _multiplication(rng: Random) -> _Draft:
    a, b = _number(rng, 2 if rng.random() < 0.8 else 3), rng.randint(2, 9)
    first, second = (a, b) if rng.random() < 0.5 else (b, a)
    text = rng.choice(phrases.MULTIPLY_ASKS).format(first, second)
    return _Draft(_key("multiply", a, b), text, "\n".join(multiply_steps(a, b)), str(a * b), a * b)


def _conversion(rng: Random) -> _Draft:
    big, big_short, small, small_short, factor = rng.choice(phrases.UNITS)
    power_of_ten = factor in (10, 100, 1000)
    count = rng.randint(2, 99 if power_of_ten or factor in (60, 7) else 9)
    shortly = rng.random() < 0.4
    big_name, small_name = (big_short, small_short) if shortly else (big, small)
    fact = f"1 {big[:-1]} = {factor} {small}"
    zeros = len(str(factor)) - 1
    if power_of_ten and rng.random() < 0.4:
        amount, source, target, result = count * factor, small_name, big_name, count
        lines = [fact, f"{amount} without {zeros} zeros = {result}"]
    else:
        amount, source, target, result = count, big_name, small_name, count * factor
        if power_of_ten:
            lines = [fact, f"{count} with {zeros} zeros = {result}"]
        elif factor == 60:
            lines = [fact, *multiply_steps(count, 6), f"{count * 6} with 1 zero = {result}"]
        else:
            lines = [fact, *(multiply_steps(factor, count) if factor > 9 else multiply_steps(count, factor))]
    text = rng.choice(phrases.CONVERT_ASKS).format(amount, source, target)
    key = f"convert:{amount}:{big if source == big_name else small}:{small if target == small_name else big}"
    return _Draft(key, text, "\n".join(lines), f"{result} {target}", result)


def _word_problem(rng: Random) -> _Draft:
    form = rng.randrange(7)
    (who, other), thing = rng.sample(phrases.NAMES, 2), rng.choice(phrases.THINGS)
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 40)
    if form == 0:
        does = rng.choice(phrases.GAINS).format(n=b, other=other)
        text = f"{who} has {a} {thing}. {who} {does}. How many {thing} does {who} have now?"
        lines, result, answer = add_steps(a, b), a + b, "{who} has {n} {thing}."
    elif form == 1:
        a, b = max(a, b), min(a, b)
        does = rng.choice(phrases.LOSSES).format(n=b, other=other)
        text = f"{who} has {a} {thing}. {who} {does}. How many {thing} are left?"
        lines, result, answer = subtract_steps(a, b), a - b, "{n} {thing} are left."
    elif form == 2:
        b, holder = rng.randint(2, 9), rng.choice(phrases.HOLDERS)
        a = rng.randint(2, 40)
        text = f"There are {b} {holder} with {a} {thing} in each. How many {thing} are there?"
        lines, result, answer = multiply_steps(a, b), a * b, "There are {n} {thing}."
    elif form == 3:
        b, a = rng.randint(2, 9), rng.randint(2, 40)
        currency = rng.choice(phrases.CURRENCIES)
        text = f"One of the {thing} costs {a} {currency}. What do {b} {thing} cost?"
        lines, result, answer = multiply_steps(a, b), a * b, f"They cost {{n}} {currency}."
    elif form == 4:
        a = rng.randint(2, 99)
        total = a + b
        c = rng.randint(2, max(2, total - 1))
        text = (
            f"{who} has {a} {thing} and buys {b} more. Then {who} gives {c} to {other}. "
            f"How many {thing} does {who} have now?"
        )
        lines = [*add_steps(a, b), *subtract_steps(total, c)]
        result, answer = total - c, "{who} has {n} {thing}."
    elif form == 5:
        b, a, holder = rng.randint(2, 9), rng.randint(2, 20), rng.choice(phrases.HOLDERS)
        text = (
            f"{who} has {b} {holder} with {a} {thing} in each, and {c} more. "
            f"How many {thing} does {who} have?"
        )
        lines = [*multiply_steps(a, b), *add_steps(a * b, c)]
        result, answer = a * b + c, "{who} has {n} {thing}."
    else:
        text = f"{who} has {a} {thing} and {other} has {b} {thing}. How many {thing} do they have together?"
        lines, result, answer = add_steps(a, b), a + b, "Together they have {n} {thing}."
    answer = answer.format(who=who, n=result, thing=thing)
    # The thought begins with the problem's words: to name the right person and thing is then to copy them.
    lines = [f"{text.partition('. ')[0]}.", *lines]
    return _Draft(f"word:{text}", text, "\n".join(lines), answer, result)


def _project(rng: Random) -> _Draft:
    topic = rng.choice(topics.TOPICS)
    text = rng.choice(topics.TOPIC_ASKS).format(rng.choice(topic.names))
    text = text[0].upper() + text[1:] if rng.random() < 0.7 else text
    return _Draft(f"project:{text}", text, f"This is about {topic.names[0]}.", topic.answer)


def _small_talk(rng: Random) -> _Draft:
    which = rng.random()
    if which < 0.4:
        text = rng.choice(topics.GREETINGS) + rng.choice(topics.GREETING_ENDS)
        thinking, answer = "A greeting.", topics.GREETING_ANSWER
    elif which < 0.9:
        text = rng.choice(topics.ABILITY_OPENINGS) + rng.choice(topics.ABILITY_ASKS)
        text += rng.choice(("?", "?", ".", ""))
        thinking, answer = "A question about me.", topics.ABILITY_ANSWER
    else:
        text = rng.choice(topics.THANKS) + rng.choice((".", "!", ""))
        thinking, answer = "Thanks.", topics.THANKS_ANSWER
    text = text.lower() if rng.random() < 0.2 else text
    return _Draft(f"talk:{text}", text, thinking, answer)


def _gibberish(rng: Random) -> str:
    words = range(rng.randint(1, 4))
    return " ".join("".join(rng.choices(ascii_lowercase, k=rng.randint(1, 8))) for _ in words)


def _other(rng: Random) -> _Draft:
    words = {name: rng.choice(choices) for name, choices in topics.OTHER_WORDS.items()}
    words |= {"place2": rng.choice(topics.OTHER_WORDS["place"]), "gibberish": _gibberish(rng)}
    text = rng.choice(topics.OTHER_ASKS).format(**words)
    return _Draft(f"other:{text}", text, "I do not know this.", topics.OTHER_ANSWER)


def _follow_up(rng: Random, value: int) -> _Draft:
    """A second turn that counts on from the number in the answer before it."""
    n = rng.randint(2, 99)
    forms = ["add"] + (["subtract"] if value >= n else []) + (["multiply"] if value < 1000 else [])
    form = rng.choice(forms)
    if form == "add":
        text = rng.choice(phrases.ADD_NEXT)
        lines, result = add_steps(value, n), value + n
    elif form == "subtract":
        text = rng.choice(phrases.SUBTRACT_NEXT)
        lines, result = subtract_steps(value, n), value - n
    else:
        n = rng.randint(2, 9)
        text = rng.choice(phrases.MULTIPLY_NEXT)
        lines, result = multiply_steps(value, n), value * n
    return _Draft(f"follow:{form}:{value}:{n}", text.format(n), "\n".join(lines), str(result), result)


_MAKERS: dict[str, tuple[int, Callable[[Random], _Draft]]] = {  # kind -> share of 100, maker
    "addition": (16, _addition), "subtraction": (16, _subtraction), "multiplication": (16, _multiplication),
    "conversion": (12, _conversion), "word_problem": (16, _word_problem), "project": (12, _project),
    "small_talk": (4, _small_talk), "other": (4, _other),
}  # fmt: skip
KINDS = (*_MAKERS, "follow_up")


def _draw(rng: Random, split: str, make: Callable[[Random], _Draft]) -> _Draft:
    while True:
        draft = make(rng)
        if split_of(draft.key) == split:
            return draft


def _draw_any(rng: Random, split: str) -> tuple[str, _Draft]:
    kind = rng.choices(tuple(_MAKERS), [share for share, _ in _MAKERS.values()])[0]
    return kind, _draw(rng, split, _MAKERS[kind][1])


def questions(split: str, seed: int | str) -> Iterator[Question]:
    """Questions without end; the same for the same arguments.

    One in eight opens with a system message; one in six follows an earlier turn, and of those that can,
    four in ten count on from its number (kind ``follow_up``). Raises UsageError for an unknown split.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    rng = Random(f"{split}:{seed}")
    while True:
        messages: list[dict[str, str]] = []
        if rng.random() < 1 / 8:
            messages.append({"role": "system", "content": rng.choice(phrases.SYSTEM_MESSAGES)})
        kind, draft = _draw_any(rng, split)
        if rng.random() < 1 / 6:
            messages.append({"role": "user", "content": draft.text})
            messages.append({"role": "assistant", "content": draft.answer})
            if draft.value is not None and rng.random() < 0.4:
                kind, draft = "follow_up", _draw(rng, split, partial(_follow_up, value=draft.value))
            else:
                kind, draft = _draw_any(rng, split)
        messages.append({"role": "user", "content": draft.text})
        yield Question(kind, draft.key, tuple(messages), draft.thinking, draft.answer)
