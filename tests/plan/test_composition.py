"""The engine's step in counts is what the runner will make of it."""

from hypothesis import given
from hypothesis import strategies as st

from fullbore.engine.step import Row
from fullbore.engine.step import Step as Planned
from fullbore.plan.composition import composition
from fullbore.steptime.step import Step

rows = st.lists(
    st.builds(
        Row,
        request=st.integers(0, 1000),
        first=st.integers(0, 5000),
        count=st.integers(1, 300),
        pages=st.just(()),
        samples=st.booleans(),
    ),
    max_size=30,
)


@given(rows)
def test_every_token_and_every_key_is_counted(planned: list[Row]) -> None:
    found = composition(Planned(1, tuple(planned)))
    decodes = [row for row in planned if row.count == 1]
    prompts = [row for row in planned if row.count > 1]
    expected = Step.of([row.first + 1 for row in decodes], [(row.count, row.first) for row in prompts])
    assert found.decodes + found.prefill_tokens == sum(row.count for row in planned)
    assert (found.decodes, found.context, found.chunks) == (
        expected.decodes,
        expected.context,
        expected.chunks,
    )
    assert (found.prefill_tokens, found.prefill_pairs) == (expected.prefill_tokens, expected.prefill_pairs)
    assert found.sampled == sum(row.samples for row in planned)
