"""What one data-parallel group of an emulated server measured, as figures of the whole server: every group
has as many requests at the same times, so rates and counts in flight are multiplied, and times are not."""

from dataclasses import replace

from fullbore.scenario.metrics import Figures, Steady
from fullbore.scenario.timeline import Timeline


def server_figures(found: Figures, groups: int) -> Figures:
    """``found`` of one of ``groups``. What was sent and received is not multiplied: it was so many."""
    if groups == 1:
        return found

    def times(rate: float | None) -> float | None:
        return None if rate is None else rate * groups

    nominal = found.nominal_concurrency
    return replace(
        found,
        output_tok_s=times(found.output_tok_s),
        input_tok_s=times(found.input_tok_s),
        total_tok_s=times(found.total_tok_s),
        peak_output_tok_s=times(found.peak_output_tok_s),
        requests_s=times(found.requests_s),
        goodput_requests_s=times(found.goodput_requests_s),
        concurrency=times(found.concurrency),
        nominal_concurrency=None if nominal is None else nominal * groups,
        steady=found.steady and _steady(found.steady, groups),
    )


def _steady(found: Steady, groups: int) -> Steady:
    return replace(
        found,
        output_tok_s=found.output_tok_s * groups,
        input_tok_s=found.input_tok_s * groups,
        concurrency=found.concurrency * groups,
    )


def server_timeline(found: Timeline | None, groups: int) -> Timeline | None:
    """The same of a run's course."""
    if found is None or groups == 1:
        return found
    return replace(
        found,
        in_flight=tuple(value * groups for value in found.in_flight),
        output_tokens=tuple(value * groups for value in found.output_tokens),
        prompt_tokens=tuple(value * groups for value in found.prompt_tokens),
        completions=tuple(value * groups for value in found.completions),
    )
