"""Who has which page of the cache.

A page is ``page_size`` slots of latent KV in every layer; here it is only a number. Each page is free or
belongs to exactly one open allocation. An allocation gives its pages back when it is closed, whatever
happened to the request that it was opened for.
"""

from collections.abc import Iterable

from fullbore.errors import CapacityError, IntegrityError


class Pages:
    """``total`` pages, numbered from 0; the page that was freed last is handed out first (it is warm)."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise CapacityError(f"{total} pages of cache: at least 1 is needed (give the cache more memory)")
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._owner: list[Allocation | None] = [None] * total

    @property
    def free(self) -> int:
        """How many pages nobody owns."""
        return len(self._free)

    def open(self, name: str) -> "Allocation":
        """An allocation without pages; ``name`` says in errors whose it is."""
        return Allocation(self, name)

    def owner(self, page: int) -> "Allocation | None":
        """The allocation that has this page, None when it is free."""
        return self._owner[page]

    def check(self, owners: Iterable["Allocation"]) -> None:
        """Free pages and those of ``owners`` are all pages, each in just one place; else IntegrityError."""
        place: dict[int, str] = {}
        for name, pages in [("the free list", self._free), *((o.name, o.pages) for o in owners)]:
            for page in pages:
                if page in place:
                    raise IntegrityError(f"page {page} is in two places: {place[page]} and {name}")
                place[page] = name
        lost = [page for page in range(self.total) if page not in place]
        if lost or len(place) != self.total:
            raise IntegrityError(f"{len(place)} of {self.total} pages are accounted for; lost: {lost[:16]}")
        for page, owner in enumerate(self._owner):
            noted = "the free list" if owner is None else owner.name
            if noted != place[page]:
                raise IntegrityError(f"page {page} is in {place[page]} but noted as of {noted}")


class Allocation:
    """The pages of one owner, in the order they were taken.

    Every method raises IntegrityError when the allocation was closed before or a page is not its own.
    """

    __slots__ = ("_held", "_pool", "closed", "name")

    def __init__(self, pool: Pages, name: str) -> None:
        self.name = name
        self.closed = False
        self._pool = pool
        self._held: dict[int, None] = {}  # a dict, not a set: its order is the same everywhere

    def __len__(self) -> int:
        return len(self._held)

    @property
    def pages(self) -> tuple[int, ...]:
        return tuple(self._held)

    def take(self, count: int) -> tuple[int, ...]:
        """``count`` free pages become this owner's; CapacityError, and none taken, when there are fewer."""
        self._open()
        pool = self._pool
        if count > len(pool._free):
            raise CapacityError(
                f"{self.name} wants {count} pages, {len(pool._free)} of {pool.total} are free"
            )
        taken = tuple(pool._free[: -count - 1 : -1])
        del pool._free[len(pool._free) - count :]
        for page in taken:
            pool._owner[page] = self
            self._held[page] = None
        return taken

    def give(self, page: int) -> None:
        """One page back to the free ones."""
        self._drop(page)
        self._pool._owner[page] = None
        self._pool._free.append(page)

    def move(self, pages: Iterable[int], to: "Allocation") -> None:
        """Pages to another owner."""
        to._open()
        owner, held = self._pool._owner, to._held
        for page in pages:
            self._drop(page)
            owner[page] = to
            held[page] = None

    def close(self) -> None:
        """All pages back to the free ones; closing twice is an error."""
        self._open()
        pages = self.pages[::-1]
        for page in pages:
            self._pool._owner[page] = None
        self._pool._free += pages
        self._held.clear()
        self.closed = True

    def _drop(self, page: int) -> None:
        if page not in self._held:
            self._open()
            raise IntegrityError(f"{self.name} gives away page {page}, which is not its own")
        del self._held[page]

    def _open(self) -> None:
        if self.closed:
            raise IntegrityError(f"the pages of {self.name} were given back already")
