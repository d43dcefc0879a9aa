"""Requests that run: those that get one token in every step, and the others.

The others compute their prompts, or wait for a page, or for the value of their last token.
"""

from bisect import insort

from fullbore.engine.decoding import Advance, Decoding
from fullbore.engine.prefix import PageTable
from fullbore.engine.request import Request
from fullbore.errors import IntegrityError


class Running:
    """All of them have page tables. Every list is in order of age, oldest first."""

    def __init__(self, page_size: int) -> None:
        self.all: list[Request] = []
        self.others: list[Request] = []
        self.decoding = Decoding(page_size)

    def __len__(self) -> int:
        return len(self.all)

    def add(self, request: Request) -> None:
        """The youngest."""
        self.all.append(request)
        self.others.append(request)

    def remove(self, request: Request) -> None:
        """Its counts are its own from now on."""
        self.all.remove(request)
        if request.base is None:
            self.others.remove(request)
        else:
            self.decoding.leave(request)

    def sort_out(self) -> None:
        """Who has one token to compute decodes from now on."""
        stay = []
        for request in self.others:
            if request.left == 1:
                self.decoding.join(request, table_of(request))
            else:
                stay.append(request)
        self.others = stay

    def set_aside(self, request: Request) -> None:
        """It does not decode until it is sorted out again."""
        self.decoding.leave(request)
        insort(self.others, request, key=_age)

    def advance(self, step: int) -> Advance:
        """Those that decode get a token in ``step``."""
        found = self.decoding.advance(step)
        for request in found.over:
            self.set_aside(request)
        return found

    def check(self, page_size: int) -> None:
        """Every count in order, every request in its place; else IntegrityError."""
        self.decoding.check()
        for request in self.all:
            if len(table_of(request).pages) * page_size < request.computed:
                raise IntegrityError(
                    f"request {request.id} has {request.computed} tokens computed in too few pages"
                )
        if self.others != [request for request in self.all if request.base is None]:
            raise IntegrityError("those that run and those that decode do not differ by the others")


def table_of(request: Request) -> PageTable:
    """Of a request that runs."""
    if request.table is None:
        raise IntegrityError(f"request {request.id} runs without a page table")
    return request.table


def _age(request: Request) -> int:
    return request.arrival
