"""``fullbore bench --find-limit``: the highest concurrency that keeps the limits, and the way there."""

import argparse
import math
from collections.abc import Callable

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fullbore.bench.judge import Judged, Point
from fullbore.bench.measuring import Bench, Measuring, measuring
from fullbore.bench.search import Answer, Effort, FindLimit, add, answer, next_ask
from fullbore.bench.search_state import State, load_state, save_state, short
from fullbore.errors import UsageError
from fullbore.flags import whole_number
from fullbore.results.result import Result
from fullbore.results.table import half, number
from fullbore.scenario.arrival import MOST_CONCURRENCY, ClosedLoop
from fullbore.scenario.confidence import Interval
from fullbore.scenario.scenario import Limits

CONFIDENCES = (0.5, 0.999)


def configure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the search for the limit")
    group.add_argument(
        "--find-limit",
        action="store_true",
        help="find the highest concurrency that keeps --ttft and --tpot at --percentile",
    )
    group.add_argument("--first", type=_concurrency, default=1, metavar="N", help="begin there (default 1)")
    group.add_argument(
        "--most", type=_concurrency, default=4096, metavar="N", help="look no further (default 4096)"
    )
    group.add_argument(
        "--resolution",
        type=lambda text: _share(text, 0.0, 1.0),
        default=0.02,
        metavar="SHARE",
        help="the answer is that close, relative to itself (default 0.02)",
    )
    group.add_argument(
        "--confidence",
        type=lambda text: _share(text, *CONFIDENCES),
        default=0.95,
        metavar="SHARE",
        help="that the limit is there (default 0.95)",
    )
    group.add_argument("--state", default="", metavar="FILE", help="keep the search there, and go on from it")


def plan_of(args: argparse.Namespace) -> tuple[FindLimit, Effort] | None:
    """What to search, None where no search is asked for. UsageError for flags that contradict each other."""
    if not args.find_limit:
        return None
    for flag, given in (
        ("--concurrency", args.concurrency),
        ("--rate", args.rate),
        ("--requests", args.requests),
    ):
        if given:
            raise UsageError(f"{flag} beside --find-limit, which chooses that itself; leave one out")
    if args.first > args.most:
        raise UsageError(f"--first {args.first} is above --most {args.most}; lower it")
    return FindLimit(args.first, args.most, args.resolution), Effort(confidence=args.confidence)


async def find(
    bench: Bench,
    plan: FindLimit,
    effort: Effort,
    state_path: str,
    keep: Callable[[Result], None],
    screen: Console,
) -> tuple[Answer, bool]:
    """Measure until the answer is there; (what is known, whether it ended without an interruption).

    A point at which no request succeeds ends it: the server may be gone. Each result goes to ``keep``, and
    with ``state_path`` into that file, from which a later search goes on.
    """
    limits = bench.scenario.limits
    async with measuring(bench, screen) as session:
        identity = _identity(bench, session)
        state = load_state(state_path, identity) if state_path else State(identity)
        if state.points:
            screen.print(f"going on from {state_path}: {len(state.points)} points are measured", markup=False)
        points = state.points
        while (ask := next_ask(points, plan, limits, effort)) is not None:
            result, interrupted = await session.run(ClosedLoop(ask.value), ask.requests)
            if result is not None:  # what was cancelled in it does not count, the rest does
                points = add(points, ask.value, short(result.records))
                if state_path:
                    save_state(state_path, State(identity, points))
                _tell(screen, points, plan, limits, effort)
            if result is not None:
                keep(result)
            if interrupted:
                return answer(points, plan, limits, effort), False
    return answer(points, plan, limits, effort), True


def _identity(bench: Bench, session: Measuring) -> dict[str, str]:
    """What must be the same for measured points to count. Seeds differ: prompts may not come again."""
    limits = bench.scenario.limits
    return {
        "server": session.target.url,
        "model": f"{session.target.model} {session.target.weights}".strip(),
        "scenario": bench.scenario.describe(),
        "limits": f"{limits.percentile} TTFT {limits.ttft_ms:g} ms, TPOT {limits.tpot_ms:g} ms",
        "endpoint": bench.endpoint,
    }


def _tell(
    screen: Console, points: tuple[Point, ...], plan: FindLimit, limits: Limits, effort: Effort
) -> None:
    known = answer(points, plan, limits, effort)
    last = next(each for each in known.curve if each.value == points[-1].value)
    verdict = f"{'keeps' if last.keeps else 'breaks'} the limits{'' if last.sure else ', not surely yet'}"
    screen.print(f"{last.value:g} in flight {verdict}: {last.why}", markup=False)


def shown(found: Answer, limits: Limits, effort: Effort) -> Group:
    """The answer in a sentence, and every point on the way to it."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for title in (
        "in flight",
        "requests",
        "TTFT ms",
        "±",
        "TPOT ms",
        "± ",
        "output\ntok/s",
        "total\ntok/s",
        "limits",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for each in found.curve:
        table.add_row(*_row(each))
    return Group(Text(f"\n{sentence(found, limits, effort)}\n", style="bold"), table)


def sentence(found: Answer, limits: Limits, effort: Effort) -> str:
    """What the search found, for a person."""
    asked = f"{limits.percentile} TTFT {limits.ttft_ms:g} ms and TPOT {limits.tpot_ms:g} ms"
    sure = f"{effort.confidence:.0%} sure" if found.sure else "not sure: more requests would tell"
    if not found.done:
        sure = "the search was not finished"
    if found.stopped:
        sure = f"the search stopped, as {found.stopped}"
    if found.limit and found.broken:
        return (
            f"{found.limit.value:g} in flight keep {asked}, {found.broken.value:g} do not "
            f"({found.broken.why}); {sure}."
        )
    if found.limit:
        return f"{found.limit.value:g} in flight keep {asked}, and no more were tried (--most); {sure}."
    if found.broken:
        return f"Not even {found.broken.value:g} in flight keep {asked} ({found.broken.why}); {sure}."
    return "Nothing was measured."


def _row(each: Judged) -> tuple[str, ...]:
    return (
        f"{each.value:g}",
        str(each.requests),
        *(text for interval in (each.ttft_ms, each.tpot_ms) for text in _figure(interval)),
        number(each.output_tok_s),
        number(each.total_tok_s),
        ("kept" if each.keeps else "broken") + ("" if each.sure else "?"),
    )


def _figure(interval: Interval | None) -> tuple[str, str]:
    return (number(interval.estimate), half(interval)) if interval else ("-", "-")


def _concurrency(text: str) -> int:
    return whole_number(text, 1, MOST_CONCURRENCY)


def _share(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low < value < high:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a number between {low:g} and {high:g}")
    return value
