"""Tables merge to one result whatever the order, and keep what is worth most."""

from hypothesis import given
from hypothesis import strategies as st
from records import JOB, OTHER, Record, tables, timing, verdict

from fullbore.ops.times import THOROUGH, Times, Timing, Verdict


@given(tables, tables, tables)
def test_merging_is_commutative_associative_and_idempotent(
    one: list[Record], two: list[Record], three: list[Record]
) -> None:
    merged = Times(one).merged(two, three)
    assert merged == Times(three).merged(Times(two).merged(one))
    assert list(merged) == list(Times([*three, *one, *two]))
    assert merged == merged.merged(merged, two)


@given(tables)
def test_a_table_loses_no_key_and_keeps_each_greatest_record(given_: list[Record]) -> None:
    table = Times(given_)
    assert {record.key for record in table} == {record.key for record in given_}
    for kept in table:
        rivals = [record for record in given_ if record.key == kept.key]
        if isinstance(kept, Timing):
            timings = [rival for rival in rivals if isinstance(rival, Timing)]
            thorough = [rival for rival in timings if rival.repeats >= THOROUGH]
            assert kept.when == max(rival.when for rival in thorough or timings)
            assert kept in (thorough or timings)
        else:
            assert kept.when == max(rival.when for rival in rivals)


def test_a_refusal_of_the_same_moment_goes_before_a_pass() -> None:
    for order in ([True, False], [False, True]):
        found = Times(verdict(passed=passed) for passed in order).verdict(JOB, "fast", "new")
        assert isinstance(found, Verdict)
        assert not found.passed
    assert Times([verdict(passed=False), verdict(when=2.0)]).verdict(JOB, "fast", "new") == verdict(when=2.0)


@given(st.permutations([timing(tokens=n) for n in (1, 8)] + [timing(tokens=2, code="old")]))
def test_times_of_other_code_are_apart(order: list[Timing]) -> None:
    table = Times(order)
    assert {each.tokens for each in table.ladder(JOB, "fast", "new")} == {1, 8}
    assert [each.tokens for each in table.older(JOB, "fast", "new")] == [2]
    assert len(table.older(JOB, "fast", "")) == 3
    assert table.ladder(JOB, "slow", "new") == table.ladder(OTHER, "fast", "new") == ()
    assert table.relatives(OTHER, "fast", "new") == (JOB,)
    assert table.relatives(JOB, "fast", "new") == ()
