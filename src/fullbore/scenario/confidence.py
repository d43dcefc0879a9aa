"""How sure a figure is: intervals of means, percentiles and ratios over requests that are not independent.

Requests that run together share steps, so their times rise and fall together and say less than their number.
Means are therefore taken over batches, in the order of time, that are as long as what is in flight at once,
and a percentile counts as many requests as would be that sure if they were independent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fullbore.scenario.metrics import percentile

MOST_BATCHES = 30  # more are hardly surer and less independent (Schmeiser, Operations Research 30, 1982)


@dataclass(frozen=True)
class Interval:
    """Bounds around ``estimate``; beyond each the truth lies with at most the error that was asked for."""

    low: float
    estimate: float
    high: float


@dataclass(frozen=True)
class _Mean:
    """A mean over batches. ``freedom`` 0: there is one batch, and the error is not known."""

    mean: float
    error: float  # standard error
    freedom: int


def mean_interval(values: Sequence[float], together: float, error: float) -> Interval:
    """Of the mean of ``values``, in the order of time, ``together`` of which ran at once.

    Batch means with Student's t. With fewer than two batches nothing is known: the bounds are infinite.
    """
    got = _mean(values, together)
    half = t_quantile(1 - error, got.freedom) * got.error if got.freedom else math.inf
    return Interval(got.mean - half, got.mean, got.mean + half)


def share_above(values: Sequence[float], limit: float, together: float, error: float) -> Interval:
    """Of the share of ``values`` above ``limit``, in the order of time, ``together`` of which ran at once.

    Clopper and Pearson's binomial interval, with the effective number of requests of Korn and Graubard
    (Survey Methodology 24, 1998): as many independent ones as have the variance that the share shows.
    """
    flags = [float(value > limit) for value in values]
    share = math.fsum(flags) / len(flags)
    count = _effective(flags, together, error)
    if not share:
        count = min(count, _effective_far_below(values, limit, together, error))
    hits = share * count
    return Interval(
        _bisect(lambda low: beta_cdf(low, hits, count - hits + 1) > error, 0.0, 1.0) if share else 0.0,
        share,
        _bisect(lambda high: beta_cdf(high, hits + 1, count - hits) > 1 - error, 0.0, 1.0)
        if share < 1
        else 1.0,
    )


def percentile_interval(values: Sequence[float], percent: float, together: float, error: float) -> Interval:
    """Of a percentile of ``values``, in the order of time, ``together`` of which ran at once.

    Order statistics: how many values are below the true percentile is binomial, of the effective number as in
    ``share_above``. A bound that no value reaches is infinite.
    """
    ordered = sorted(values)
    share, count = percent / 100, len(ordered)
    estimate = percentile(ordered, percent)
    effective = max(1.0, _effective([float(value > estimate) for value in values], together, error))

    def reaches(rank: float) -> float:
        """The chance that at least ``rank`` values are below the true percentile."""
        return beta_cdf(share, rank, effective - rank + 1)

    # Ranks are whole among the independent requests, each of which stands for several of the measured ones.
    low = math.floor(_bisect(lambda rank: reaches(rank) < 1 - error, 0.0, effective + 1))
    high = math.ceil(_bisect(lambda rank: reaches(rank) <= error, 0.0, effective + 1))
    each = count / effective
    return Interval(
        min(estimate, ordered[math.floor(low * each + 1e-9) - 1]) if low >= 1 else -math.inf,
        estimate,
        max(estimate, ordered[min(count, math.ceil(high * each)) - 1]) if high <= effective else math.inf,
    )


def ratio_interval(
    above: Sequence[float], below: Sequence[float], together: tuple[float, float], error: float
) -> Interval:
    """Of the mean of ``above`` to that of ``below``: two runs of positive values, each in the order of time.

    The relative errors of the two add as squares, with Welch's degrees of freedom; ``together`` as for means.
    """
    one, two = (_mean(values, each) for values, each in zip((above, below), together, strict=True))
    ratio = one.mean / two.mean
    if not (one.freedom and two.freedom):
        return Interval(0.0, ratio, math.inf)
    squares = [(each.error / each.mean) ** 2 for each in (one, two)]
    if not sum(squares):
        return Interval(ratio, ratio, ratio)
    freedom = sum(squares) ** 2 / sum(
        square**2 / each.freedom for square, each in zip(squares, (one, two), strict=True)
    )
    factor = math.exp(t_quantile(1 - error, freedom) * math.sqrt(sum(squares)))
    return Interval(ratio / factor, ratio, ratio * factor)


def fewest_requests(percent: float, error: float) -> int:
    """With fewer independent requests no value bounds the percentile from above, however small they are."""
    return math.ceil(math.log(error) / math.log(percent / 100))


def t_quantile(probability: float, freedom: float) -> float:
    """Of Student's distribution, for a ``probability`` from 0.5 to below 1.

    P(|T| > t) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2): Abramowitz and Stegun 26.7.1.
    """
    tail = 2 * (1 - probability)
    x = _bisect(lambda x: beta_cdf(x, freedom / 2, 0.5) >= tail, 0.0, 1.0)
    return math.sqrt(freedom * (1 - x) / x)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if a <= 0 or b <= 0 or not 0 < x < 1:
        return float(a <= 0 or (b > 0 and x >= 1))
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below that only
        return 1 - beta_cdf(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # Lentz's method: the value of the fraction and the ratios of successive numerators and denominators.
    value = numerator = 1.0
    denominator = 0.0
    for step in range(2000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (1 + term * denominator)
        numerator = 1 + term / numerator
        value *= numerator * denominator
        if step and abs(numerator * denominator - 1) < 1e-15:
            break
    return math.exp(log_front) * (value - 1) / a


def _mean(values: Sequence[float], together: float) -> _Mean:
    """Batches of equal length; the last few values, which fill none, are in the mean alone.

    Requests at the end of one batch still run at the begin of the next. Where what they have in common is
    white noise in time, of which each has the average over its life, batches of k lives correlate with
    1 / (6 k - 2), and the variance of the mean is k / (k - 1/3) times that of independent batches.
    """
    length = max(1, math.ceil(together), -(-len(values) // MOST_BATCHES))
    count = len(values) // length
    mean = math.fsum(values) / len(values)
    if count < 2:
        return _Mean(mean, math.inf, 0)
    batches = [math.fsum(values[first * length : (first + 1) * length]) / length for first in range(count)]
    centre = math.fsum(batches) / count
    variance = math.fsum((each - centre) ** 2 for each in batches) / (count - 1)
    others = max(0.0, together - 1)  # that run beside a request
    overlap = length / (length - others / 3)
    return _Mean(mean, math.sqrt(variance / count * overlap), count - 1)


def _effective(flags: Sequence[float], together: float, error: float) -> float:
    """How many independent flags would be as sure of their share; all of them where they are alike."""
    count = len(flags)
    got = _mean(flags, together)
    if got.mean in (0.0, 1.0) or count < 2:
        return count
    if not got.freedom:
        return count / max(1.0, together)
    independent = got.mean * (1 - got.mean) / count  # variance of the share, were they so
    return count / max(1.0, got.error**2 / independent) * _known(count, got.freedom, error)


def _effective_far_below(values: Sequence[float], limit: float, together: float, error: float) -> float:
    """How many independent values there are, of which none is above ``limit``: how they depend on each other
    shows in the values alone, and does not matter where the limit is out of their reach.

    That is about as far from the mean as a normal tolerance bound for the p99 would be (Odeh and Owen, 1980).
    """
    count = len(values)
    got = _mean(values, together)
    variance = math.fsum((value - got.mean) ** 2 for value in values) / max(1, count - 1)
    if not variance:
        return count
    if not got.freedom:
        return count / max(1.0, together)
    if limit - got.mean >= 3 * t_quantile(1 - error, got.freedom) * math.sqrt(variance):
        return count
    return count / max(1.0, got.error**2 * count / variance) * _known(count, got.freedom, error)


def _known(count: int, freedom: int, error: float) -> float:
    """What is left of an effective number for the variance being known from few batches only."""
    return (t_quantile(1 - error, count - 1) / t_quantile(1 - error, freedom)) ** 2


def _bisect(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``beyond``, false at ``low`` and true at ``high``, turns true."""
    for _ in range(200):
        middle = (low + high) / 2
        if high - low <= 1e-12 * high:
            break
        if beyond(middle):
            high = middle
        else:
            low = middle
    return high
