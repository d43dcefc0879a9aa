"""No page is lost, had twice or freed twice, whatever owners do."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fullbore.engine.pages import Allocation, Pages
from fullbore.errors import CapacityError, IntegrityError

TOTAL = 7
PICK = st.integers(0, 50)


class PagesMachine(RuleBasedStateMachine):
    """Against a model: a set of free pages and a list per owner."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pages(TOTAL)
        self.owners: list[Allocation] = []
        self.model: list[list[int]] = []
        self.closed: list[Allocation] = []

    @rule()
    def open(self) -> None:
        self.owners.append(self.pool.open(f"owner {len(self.owners) + len(self.closed)}"))
        self.model.append([])

    @precondition(lambda self: self.owners)
    @rule(who=PICK, count=st.integers(0, TOTAL + 1))
    def take(self, who: int, count: int) -> None:
        who %= len(self.owners)
        if count > self.pool.free:
            with pytest.raises(CapacityError, match=f"{count} pages"):
                self.owners[who].take(count)
        else:
            self.model[who].extend(self.owners[who].take(count))

    @precondition(lambda self: any(self.model))
    @rule(who=PICK, which=PICK)
    def give(self, who: int, which: int) -> None:
        who = [index for index, pages in enumerate(self.model) if pages][who % sum(map(bool, self.model))]
        page = self.model[who].pop(which % len(self.model[who]))
        self.owners[who].give(page)
        with pytest.raises(IntegrityError, match="not its own"):
            self.owners[who].give(page)

    @precondition(lambda self: any(self.model))
    @rule(who=PICK, to=PICK, which=PICK)
    def move(self, who: int, to: int, which: int) -> None:
        who = [index for index, pages in enumerate(self.model) if pages][who % sum(map(bool, self.model))]
        to %= len(self.owners)
        page = self.model[who].pop(which % len(self.model[who]))
        self.owners[who].move([page], self.owners[to])
        self.model[to].append(page)

    @precondition(lambda self: self.owners)
    @rule(who=PICK)
    def close(self, who: int) -> None:
        who %= len(self.owners)
        owner = self.owners.pop(who)
        self.model.pop(who)
        owner.close()
        self.closed.append(owner)

    @precondition(lambda self: self.closed)
    @rule(who=PICK)
    def nothing_works_after_close(self, who: int) -> None:
        owner = self.closed[who % len(self.closed)]
        for call in (
            owner.close,
            lambda: owner.take(0),
            lambda: owner.give(0),
            lambda: owner.move([0], owner),
        ):
            with pytest.raises(IntegrityError, match="given back already"):
                call()

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.pool.check(self.owners)
        assert [sorted(owner.pages) for owner in self.owners] == [sorted(pages) for pages in self.model]
        assert self.pool.free == TOTAL - sum(map(len, self.model))
        for page in range(TOTAL):
            expected = [o for o, pages in zip(self.owners, self.model, strict=True) if page in pages]
            assert self.pool.owner(page) is (expected[0] if expected else None)


PagesMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPages = PagesMachine.TestCase


def test_a_forgotten_owner_is_found_out() -> None:
    pool = Pages(3)
    pool.open("forgotten").take(2)
    with pytest.raises(IntegrityError, match="lost"):
        pool.check([])


def test_an_owner_counted_twice_is_found_out() -> None:
    pool = Pages(3)
    owner = pool.open("twin")
    owner.take(1)
    with pytest.raises(IntegrityError, match="two places"):
        pool.check([owner, owner])


def test_a_cache_without_pages_is_refused() -> None:
    with pytest.raises(CapacityError, match="0 pages"):
        Pages(0)
