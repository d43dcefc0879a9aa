"""The prefix tree against a model: prefixes in a dict, eviction by a plain sort."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fullbore.engine.pages import Pages
from fullbore.engine.prefix import PageTable, PrefixTree
from fullbore.errors import IntegrityError

SIZE = 2
TOTAL = 12
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=10)
SALT = st.sampled_from(("", "tenant"))
PICK = st.integers(0, 50)

Key = tuple[str, tuple[int, ...]]  # salt, tokens up to the end of the page


class PrefixMachine(RuleBasedStateMachine):
    """Tables come, share what they computed, and go; the model knows every prefix, its holders, its age."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pages(TOTAL)
        self.tree = PrefixTree(self.pool, SIZE)
        self.tables: list[tuple[PageTable, list[int], int]] = []  # table, tokens, pages shared
        self.model: dict[Key, list[int]] = {}  # key -> [page, tick of the last release, serial]
        self.tick = 0
        self.serial = 0
        self.evicted: list[int] = []

    def keys(self, salt: str, tokens: list[int], pages: int) -> list[Key]:
        return [(salt, tuple(tokens[: (index + 1) * SIZE])) for index in range(pages)]

    def held(self) -> set[Key]:
        return {k for table, tokens, n in self.tables for k in self.keys(table.salt, tokens, n)}

    def evict_in_model(self, count: int) -> None:
        for _ in range(count):
            held = self.held()
            parents = {(salt, tokens[:-SIZE]) for salt, tokens in self.model}
            leaves = [key for key in self.model if key not in held and key not in parents]
            if leaves:
                del self.model[min(leaves, key=lambda key: self.model[key][1:])]

    @rule(salt=SALT, tokens=TOKENS)
    def open(self, salt: str, tokens: list[int]) -> None:
        nodes = self.tree.match(salt, tokens, len(tokens) // SIZE)
        expected = []
        for key in self.keys(salt, tokens, len(tokens) // SIZE):
            if key not in self.model:
                break
            expected.append(self.model[key][0])
        assert [node.page for node in nodes] == expected
        assert self.tree.match(salt, tokens, 1) == nodes[:1]
        wanted = -(-len(tokens) // SIZE) - len(nodes)
        if wanted > self.tree.room - sum(not node.refs for node in nodes):
            return
        shared = len(nodes)  # the table goes on appending to the list
        table = PageTable(self.tree, salt, nodes, "table")
        self.tables.append((table, tokens, shared))
        self.evict_in_model(wanted - self.pool.free)
        table.grow(wanted)

    @precondition(lambda self: self.tables)
    @rule(which=PICK, computed=st.integers(0, 10))
    def share(self, which: int, computed: int) -> None:
        which %= len(self.tables)
        table, tokens, shared = self.tables[which]
        computed = min(computed, len(tokens))
        before = table.pages
        spare = table.share(tokens, computed)
        left_over = []
        for index, key in enumerate(self.keys(table.salt, tokens, computed // SIZE)):
            if index < shared:
                continue
            if key in self.model:
                left_over.append(before[index])
            else:
                self.model[key] = [before[index], 0, self.serial]
                self.serial += 1
            assert table.pages[index] == self.model[key][0]
        assert sorted(left_over) == sorted(spare.pages if spare else ())
        if spare:
            spare.close()
        self.tables[which] = (table, tokens, max(shared, computed // SIZE))

    @precondition(lambda self: self.tables)
    @rule(which=PICK, tainted=st.booleans())
    def close(self, which: int, tainted: bool) -> None:
        table, tokens, shared = self.tables.pop(which % len(self.tables))
        table.tainted = tainted
        table.close()
        with pytest.raises(IntegrityError):
            table.close()
        self.tick += 1
        held = self.held()
        for key in reversed(self.keys(table.salt, tokens, shared)):
            if key not in held:
                self.model[key][1] = self.tick
        if tainted:
            for key in reversed(self.keys(table.salt, tokens, shared)):
                if key in held or any(k[0] == key[0] and k[1][:-SIZE] == key[1] for k in self.model):
                    break
                del self.model[key]

    @rule(count=st.integers(0, 4))
    def evict(self, count: int) -> None:
        unused = len(self.model) - len(self.held())
        assert self.tree.evict(count) == min(count, unused)
        self.evict_in_model(count)

    @rule()
    def flush(self) -> None:
        unused = len(self.model) - len(self.held())
        assert self.tree.flush() == unused
        self.model = {key: value for key, value in self.model.items() if key in self.held()}

    @invariant()
    def agrees_with_the_model(self) -> None:
        tables = [table for table, _, _ in self.tables]
        for table in tables:
            table.check()
        self.pool.check([self.tree.own, *(table.own for table in tables)])
        self.tree.check([table.nodes for table in tables])
        assert sorted(self.tree.own.pages) == sorted(page for page, _, _ in self.model.values())
        assert self.tree.unused == len(self.model) - len(self.held())
        assert len(self.tree._roots) == len({salt for salt, _ in self.model}), "a salt that is gone is kept"


PrefixMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPrefix = PrefixMachine.TestCase


def table_of(tree: PrefixTree, tokens: list[int], salt: str = "") -> PageTable:
    """A table with all of ``tokens`` computed and shared."""
    table = PageTable(tree, salt, tree.match(salt, tokens, len(tokens) // SIZE), "table")
    table.grow(-(-len(tokens) // SIZE) - len(table.nodes))
    spare = table.share(tokens, len(tokens))
    if spare:
        spare.close()
    return table


def test_a_partial_page_is_not_shared() -> None:
    tree = PrefixTree(Pages(8), SIZE)
    table_of(tree, [1, 2, 3])
    assert len(tree.match("", [1, 2, 3, 4], 2)) == 1


def test_salts_share_nothing() -> None:
    tree = PrefixTree(Pages(8), SIZE)
    table_of(tree, [1, 2], "one")
    assert tree.match("two", [1, 2], 1) == []


def test_equal_hashes_are_not_equal_tokens() -> None:
    """hash(-1) == hash(-2) in CPython, so these two chunks collide."""
    assert hash((-1, 5)) == hash((-2, 5))
    tree = PrefixTree(Pages(8), SIZE)
    table_of(tree, [-1, 5])
    assert tree.match("", [-2, 5], 1) == []
    assert len(tree.match("", [-1, 5], 1)) == 1


def test_the_least_recently_used_leaf_goes_first() -> None:
    tree = PrefixTree(Pages(8), SIZE)
    first, second = table_of(tree, [1, 1]), table_of(tree, [2, 2])
    first.close()
    second.close()
    table_of(tree, [1, 1]).close()  # used again
    tree.evict(1)
    assert tree.match("", [2, 2], 1) == []
    assert len(tree.match("", [1, 1], 1)) == 1


def test_stale_entries_do_not_pile_up() -> None:
    tree = PrefixTree(Pages(4), SIZE)
    for _ in range(1000):
        table_of(tree, [1, 1]).close()
    assert len(tree._leaves) < 200


def test_releasing_what_nobody_holds_is_found_out() -> None:
    tree = PrefixTree(Pages(4), SIZE)
    table = table_of(tree, [1, 1])
    table.close()
    with pytest.raises(IntegrityError, match="nobody holds"):
        tree.release(table.nodes)


def test_sharing_more_than_is_known_is_found_out() -> None:
    tree = PrefixTree(Pages(4), SIZE)
    table = PageTable(tree, "", [], "table")
    table.grow(2)
    with pytest.raises(IntegrityError, match="4 tokens computed, 3 known"):
        table.share([1, 2, 3], 4)
