"""Requests that get one token in every step, by column.

Their counts move together: what one has computed is its ``base`` plus the steps that were ever planned here
(``ticks``), so a step costs nothing for most of them. Those that need a page, fill one or come to their end
in a step are known beforehand, by where they stand in a page and by their lengths.

    computed = base + ticks,  known = computed + 1
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass

from fullbore.engine.prefix import PageTable
from fullbore.engine.request import Request
from fullbore.engine.step import Decodes
from fullbore.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Advance:
    """One step of all of them. ``tables``: their page tables, which a preemption may replace before the step
    is committed. ``filled``: whose token is the last of a page, and how many tokens it has computed then.
    ``over``: who has no token to wait for after this one. ``ends``: tokens that end any of them. ``takes``:
    appends to each one's tokens.
    """

    decodes: Decodes
    requests: tuple[Request, ...]
    tables: tuple[PageTable, ...]
    filled: tuple[tuple[Request, PageTable, int], ...]
    over: tuple[Request, ...]
    ends: frozenset[int]
    takes: tuple[Callable[[int], None], ...]


@dataclass(frozen=True, slots=True)
class _Members:
    """What steps share until somebody joins or leaves."""

    numbers: tuple[int, ...] = ()
    bases: tuple[int, ...] = ()
    requests: tuple[Request, ...] = ()
    tables: tuple[PageTable, ...] = ()
    ends: frozenset[int] = frozenset()
    takes: tuple[Callable[[int], None], ...] = ()


class Decoding:
    """Members are kept in order of age; all columns have one entry for each."""

    def __init__(self, page_size: int) -> None:
        self._size = page_size
        self._ticks = 0
        self._last_step = 0  # number of the last step that has rows of them
        self._ages: list[int] = []
        self._requests: list[Request] = []
        self._tables: list[PageTable] = []
        self._pages: list[tuple[int, ...]] = []
        # By the remainder of the ticks at which they begin a page, and by those at which they are over.
        self._begins: list[list[Request]] = [[] for _ in range(page_size)]
        self._over: dict[int, list[Request]] = {}
        self._members = _Members()
        self._page_column: tuple[tuple[int, ...], ...] = ()  # until a table changes
        self._other_members = self._other_pages = False

    def __len__(self) -> int:
        return len(self._requests)

    def join(self, request: Request, table: PageTable) -> None:
        """``request`` has one token to compute, and has so after every step until it is over."""
        request.base = base = request.computed - self._ticks
        place = bisect_left(self._ages, request.arrival)
        self._ages.insert(place, request.arrival)
        self._requests.insert(place, request)
        self._tables.insert(place, table)
        self._pages.insert(place, table.pages)
        insort(self._begins[-base % self._size], request, key=_age)
        self._over.setdefault(request.most - 1 - base, []).append(request)
        self._other_members = self._other_pages = True

    def leave(self, request: Request) -> None:
        """Its counts are its own again."""
        self.settle(request)
        base, request.base = request.base, None
        place = bisect_left(self._ages, request.arrival)
        if base is None or self._requests[place] is not request:
            raise IntegrityError(f"request {request.id} leaves those that decode, and is none of them")
        for column in (self._ages, self._requests, self._tables, self._pages):
            del column[place]
        self._begins[-base % self._size].remove(request)
        over = request.most - 1 - base
        self._over[over].remove(request)
        if not self._over[over]:
            del self._over[over]
        self._other_members = self._other_pages = True

    def settle(self, request: Request) -> None:
        """Write a member's counts to it."""
        if request.base is None:
            return
        computed = request.base + self._ticks
        if computed > request.computed:
            request.computed, request.known = computed, computed + 1
            request.last_step = self._last_step

    def beginning(self) -> tuple[Request, ...]:
        """Whose next token is the first of a page, oldest first."""
        return tuple(self._begins[self._ticks % self._size])

    def repage(self, request: Request, table: PageTable) -> None:
        """``table`` has other pages than before."""
        self._pages[bisect_left(self._ages, request.arrival)] = table.pages
        self._other_pages = True

    def advance(self, step: int) -> Advance:
        """All get a token in ``step``; who is over then must leave before the next."""
        tick, requests = self._ticks, self._requests
        if self._other_members:
            self._members = _Members(
                tuple([request.id for request in requests]),
                tuple([request.base or 0 for request in requests]),
                tuple(requests),
                tuple(self._tables),
                frozenset().union(*[request.ends for request in requests]),
                tuple([request.tokens.append for request in requests]),
            )
            self._other_members = False
        if self._other_pages:
            self._page_column = tuple(self._pages)
            self._other_pages = False
        members = self._members
        self._ticks = after = tick + 1
        self._last_step = step
        filled = []
        for request in self._begins[after % self._size]:
            if request.base is not None and request.table is not None:
                filled.append((request, request.table, request.base + after))
        return Advance(
            Decodes(members.numbers, members.bases, tick, self._page_column),
            members.requests,
            members.tables,
            tuple(filled),
            tuple(self._over.get(after, ())),
            members.ends,
            members.takes,
        )

    def check(self) -> None:
        """Every column says what the requests say; else IntegrityError."""
        for place, request in enumerate(self._requests):
            self.settle(request)
            base, table = request.base, request.table
            if base is None or request.computed != base + self._ticks or request.left != 1:
                raise IntegrityError(f"request {request.id} is among those that decode, and does not")
            if table is not self._tables[place] or table.pages != self._pages[place]:
                raise IntegrityError(
                    f"request {request.id} has another page table than those that decode say"
                )
            if request not in self._begins[-base % self._size]:
                raise IntegrityError(f"request {request.id} would not be given its next page")
            if request not in self._over.get(request.most - 1 - base, ()):
                raise IntegrityError(f"request {request.id} would never be over")
        if self._ages != [request.arrival for request in self._requests]:
            raise IntegrityError("the requests that decode are not in order of age")
        begun, over = sum(map(len, self._begins)), sum(map(len, self._over.values()))
        if not begun == over == len(self._requests):
            raise IntegrityError(f"{len(self._requests)} requests decode, {begun} and {over} are waited for")


def _age(request: Request) -> int:
    return request.arrival
