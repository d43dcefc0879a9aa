"""Flags that can also be set as environment variables: ``--x-y`` as ``FULLBORE_X_Y``; the flag wins.

A flag or a ``FULLBORE_`` variable that nothing knows is an error with the closest name, never ignored.
"""

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from fullbore.errors import FullboreError, UsageError, did_you_mean

PREFIX = "FULLBORE_"
# Variables that stand for no flag: they are read where kernels are loaded, by whatever program loads them.
VARIABLES = frozenset({"FULLBORE_CPU_ISA", "FULLBORE_PIN"})
TRUTH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}

DURATIONS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
BANDWIDTHS_BYTES_S = {"MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and raises UsageError instead of exiting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see: {self.prog} --help)")


def whole_number(text: str, low: int, high: int) -> int:
    """The value of a flag that takes a whole number of this range; ArgumentTypeError for any other text."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a whole number from {low} to {high}")
    return value


def duration(text: str) -> float:
    """The seconds that ``93ms`` or ``2.01s`` says, above 0; ArgumentTypeError for any other text."""
    return _quantity(text, DURATIONS_S, "a duration", "93ms or 2.01s")


def bandwidth(text: str) -> float:
    """The bytes a second that ``5.3TB/s`` says, above 0; ArgumentTypeError for any other text."""
    return _quantity(text, BANDWIDTHS_BYTES_S, "a bandwidth", "5.3TB/s or 820GB/s")


def _quantity(text: str, units: Mapping[str, float], what: str, examples: str) -> float:
    # A number alone is refused: one person means seconds by it and the next milliseconds.
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]{1,3})?) ?([A-Za-zµ/]+)", text.strip())
    unit = found[2].replace("µ", "u") if found else ""
    value = float(found[1]) * units[unit] if found and unit in units else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}, expected {what} above 0 with its unit ({', '.join(units)}), such as {examples}"
        )
    return value


def parse(parser: Parser, argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """The arguments from ``argv``, then ``environ``, then the defaults."""
    _refuse_unknown_flags(parser, argv)
    from_environ = [
        (action, flag, environ[variable(flag)])
        for action in _settable(parser)
        for flag in action.option_strings
        if flag.startswith("--") and variable(flag) in environ
    ]
    # A default that is suppressed leaves no attribute behind, which is how "the flag was not given" is seen.
    defaults = {action.dest: action.default for action, _, _ in from_environ}
    for action in _settable(parser):
        if action.dest in defaults:
            action.default, action.required = argparse.SUPPRESS, False
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        stray = next((word for word in extra if word.startswith("-")), extra[0])
        parser.error(f"unexpected argument {stray}")
    given = set(vars(arguments))
    for action, flag, text in from_environ:
        if action.dest not in given:
            value = _value(action, flag, text)
            setattr(arguments, action.dest, defaults[action.dest] if value is None else value)
    return arguments


def variables(parser: Parser) -> set[str]:
    """Every environment variable that stands for a flag of ``parser``."""
    return {
        variable(flag)
        for action in _settable(parser)
        for flag in action.option_strings
        if flag.startswith("--")
    }


def refuse_unknown_variables(environ: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError for a ``FULLBORE_`` variable that stands for no flag."""
    known = set(known)
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            raise UsageError(
                f"the environment variable {name} stands for no flag{did_you_mean(name, known)}; unset it"
            )


def variable(flag: str) -> str:
    """``--max-model-len`` is ``FULLBORE_MAX_MODEL_LEN``."""
    return PREFIX + flag.lstrip("-").replace("-", "_").upper()


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from _parsers(nested)


def _settable(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions that are flags with a value to keep, so not ``--help``."""
    return [
        action
        for each in _parsers(parser)
        for action in each._actions
        if action.option_strings and not isinstance(action, argparse._HelpAction | argparse._VersionAction)
    ]


def _refuse_unknown_flags(parser: Parser, argv: Sequence[str]) -> None:
    """Before argparse looks: it would complain of what is missing, or take the flag's value as a name."""
    known = {flag for each in _parsers(parser) for action in each._actions for flag in action.option_strings}
    for word in argv:
        if word == "--":
            return
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and " " not in flag and flag not in known:
            parser.error(f"unknown flag {flag}{did_you_mean(flag, known)}")


def _value(action: argparse.Action, flag: str, text: str) -> Any:
    """What ``text`` sets ``action`` to; None for "leave the default"."""

    def refuse(why: str) -> NoReturn:
        raise UsageError(f"{variable(flag)}={text!r} (the environment variable for {flag}): {why}")

    if action.nargs == 0:
        truth = TRUTH.get(text.strip().lower())
        if truth is None:
            refuse(f"expected one of {', '.join(TRUTH)}")
        if isinstance(action, argparse.BooleanOptionalAction):
            return truth != flag.startswith("--no-")
        return action.const if truth else None

    def convert(word: str) -> Any:
        try:
            value = action.type(word) if callable(action.type) else word
        except (ValueError, TypeError, argparse.ArgumentTypeError, FullboreError) as error:
            refuse(str(error))
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            refuse(f"expected one of {', '.join(choices)}{did_you_mean(word, choices)}")
        return value

    many = isinstance(action, argparse._AppendAction) or action.nargs not in (None, "?")
    return [convert(word) for word in text.split()] if many else convert(text)
