"""Records of a table, drawn."""

from hypothesis import strategies as st

from fullbore.ops.times import Begun, Covered, Record, Seen, Subject, Timing, Verdict

JOB = Subject("linear", (("in", 8), ("out", 4)), "fp32", "float32", "cpu")
OTHER = Subject("linear", (("in", 16), ("out", 4)), "fp32", "float32", "cpu")
us = st.floats(0.1, 1e6)
when = st.sampled_from([1.0, 2.0, 3.0])
subjects = st.sampled_from([JOB, OTHER])
kernels = st.sampled_from(["fast", "slow"])
hashes = st.sampled_from(["old", "new"])


def timing(
    kernel: str = "fast",
    tokens: int = 1,
    median_us: float = 5.0,
    *,
    subject: Subject = JOB,
    code: str = "new",
    context: int = 0,
    repeats: int = 10,
    when: float = 1.0,
    packed: int = 100,
) -> Timing:
    spread = median_us, median_us, median_us
    return Timing(subject, kernel, code, tokens, context, repeats, when, *spread, 1.0, "read", packed)


def verdict(kernel: str = "fast", passed: bool = True, *, when: float = 1.0, code: str = "new") -> Verdict:
    return Verdict(JOB, kernel, code, when, passed, 0.5, 1.0, "case random")


timings = st.builds(
    Timing, subjects, kernels, hashes, st.sampled_from([1, 8]), st.just(0), st.sampled_from([5, 50]), when,
    us, us, us, us, st.sampled_from(["read", "flops"]), st.integers(0, 1 << 40),
)  # fmt: skip
verdicts = st.builds(
    Verdict, subjects, kernels, hashes, when, st.booleans(), st.floats(-1, 1e300), us, st.text(max_size=9),
    st.text(max_size=9),
)  # fmt: skip
begun = st.builds(Begun, subjects, kernels, hashes, when, st.booleans())
ceilings = st.builds(Seen, when, us, st.just((("float32", 1.0),)))
covered = st.builds(Covered, st.sampled_from(["m", "n"]), hashes, st.just("float32"), when)
records: st.SearchStrategy[Record] = st.one_of(timings, verdicts, begun, ceilings, covered)
tables = st.lists(records, max_size=12)
