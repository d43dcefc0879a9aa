"""Prefixes that are computed already, shared between requests.

A tree per salt. A node is one full page and the ``page_size`` tokens whose latents it holds, given all the
tokens above it; chunks are compared token by token (keys hold tuples), never by hash alone. A page in the
tree is never written again. Requests that run hold the nodes on their path; a path is held from the root
without gaps, so what is below an unheld node is unheld too, and every unheld page can be evicted in the end.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from fullbore.engine.pages import Allocation, Pages
from fullbore.errors import IntegrityError

Chunk = tuple[int, ...]  # page_size tokens


class Node:
    """One page of a prefix; a root has no page (-1)."""

    __slots__ = ("children", "chunk", "page", "parent", "refs", "salt", "serial", "used")

    def __init__(
        self, salt: str, parent: "Node | None", chunk: Chunk, page: int, serial: int, refs: int = 1
    ) -> None:
        self.salt = salt
        self.parent = parent
        self.chunk = chunk
        self.page = page
        self.serial = serial  # order of insertion
        self.refs = refs  # tables that hold it
        self.used = 0  # tick of the last release
        self.children = 0  # nodes right below it


class PrefixTree:
    """Owns the shared pages. Time is a counter of releases: the same history evicts the same pages."""

    def __init__(self, pool: Pages, page_size: int) -> None:
        self.pool = pool
        self.page_size = page_size
        self.own = pool.open("the prefix tree")
        self.unused = 0  # nodes that nobody holds
        self._roots: dict[str, Node] = {}
        # By the serial of the node above and the chunk. One dict: one in each would be larger than a node.
        self._below: dict[tuple[int, Chunk], Node] = {}
        self._nodes: dict[int, Node] = {}  # by serial
        self._leaves: list[tuple[int, int]] = []  # heap of (used, serial); may hold stale entries
        self._tick = 0
        self._serial = 0

    @property
    def room(self) -> int:
        """Pages that can be had: free ones, and those of the tree that nobody holds."""
        return self.pool.free + self.unused

    def match(self, salt: str, tokens: Sequence[int], most: int) -> list[Node]:
        """The longest path that spells the start of ``tokens``, at most ``most`` pages. Changes nothing."""
        node = self._roots.get(salt)
        path: list[Node] = []
        size = self.page_size
        for start in range(0, most * size, size):
            node = self._below.get((node.serial, tuple(tokens[start : start + size]))) if node else None
            if node is None:
                break
            path.append(node)
        return path

    def hold(self, nodes: Iterable[Node]) -> None:
        """Keep ``nodes`` from eviction until they are released as often."""
        for node in nodes:
            if node.refs == 0:
                self.unused -= 1
            node.refs += 1

    def release(self, nodes: Sequence[Node]) -> None:
        """The end of one ``hold`` of each of ``nodes`` (a path, root first)."""
        self._tick += 1
        for node in reversed(nodes):
            if node.refs < 1:
                raise IntegrityError(f"page {node.page} of the prefix tree is released but nobody holds it")
            node.refs -= 1
            if node.refs == 0:
                self.unused += 1
                node.used = self._tick
                if not node.children:
                    self._offer(node)

    def insert(
        self, salt: str, parent: Node | None, chunks: Sequence[Chunk], pages: Sequence[int], giver: Allocation
    ) -> list[Node]:
        """The nodes for ``chunks``, one below the other under ``parent`` (None: the root of ``salt``), each
        held once for the caller.

        ``pages`` move from ``giver`` to the tree, but for chunks that are there already: those nodes have
        other pages and ``giver`` keeps its own.
        """
        node = parent or self._roots.get(salt)
        if node is None:
            node = self._roots[salt] = Node(salt, None, (), -1, self._serial, 0)
            self._serial += 1
        path: list[Node] = []
        for chunk in chunks:
            known = self._below.get((node.serial, chunk))
            if known is None:
                break
            path.append(known)
            node = known
        if path:
            self.hold(path)
            chunks, pages = chunks[len(path) :], pages[len(path) :]
        giver.move(pages, self.own)
        serial = self._serial
        for chunk, page in zip(chunks, pages, strict=True):
            below = self._nodes[serial] = Node(salt, node, chunk, page, serial)
            self._below[node.serial, chunk] = below
            node.children += 1
            serial += 1
            path.append(below)
            node = below  # nothing is below a node that is new
        self._serial = serial
        return path

    def evict(self, count: int) -> int:
        """Free up to ``count`` unheld pages, leaf by leaf: least recently used first, ties by insertion."""
        done = 0
        while done < count and self._leaves:
            used, serial = heappop(self._leaves)
            node = self._nodes.get(serial)
            # Stale if evicted, held or used since; children come only while held, so it is a leaf still.
            if node is not None and node.used == used and not node.refs:
                self._remove(node)
                done += 1
        return done

    def flush(self) -> int:
        """Evict every unheld page; how many there were."""
        return self.evict(self.unused)

    def forget(self, nodes: Sequence[Node]) -> None:
        """Drop a released path from its end up to the first node that is held or has other children."""
        for node in reversed(nodes):
            if node.refs or node.children or self._nodes.get(node.serial) is not node:
                break
            self._remove(node)

    def check(self, holders: Iterable[Sequence[Node]]) -> None:
        """Nodes are held just by ``holders`` (all paths held now), the tree is whole; else IntegrityError."""
        refs: dict[int, int] = {}
        for path in holders:
            for depth, node in enumerate(path):
                refs[node.serial] = refs.get(node.serial, 0) + 1
                above = path[depth - 1] if depth else None
                if self._nodes.get(node.serial) is not node:
                    raise IntegrityError(f"page {node.page} is held but no longer in the prefix tree")
                if (node.parent is not above) if above else (node.parent is not self._roots.get(node.salt)):
                    raise IntegrityError(f"the path to page {node.page} of the prefix tree has a gap")
        waiting = {serial for _, serial in self._leaves}
        for serial, node in self._nodes.items():
            if node.refs != refs.get(serial, 0):
                raise IntegrityError(
                    f"page {node.page} has {node.refs} holders noted, {refs.get(serial, 0)} hold it"
                )
            if node.parent is None or self._below.get((node.parent.serial, node.chunk)) is not node:
                raise IntegrityError(f"page {node.page} of the prefix tree hangs nowhere")
            if self.pool.owner(node.page) is not self.own:
                raise IntegrityError(f"page {node.page} is in the prefix tree but not owned by it")
            if not node.refs and not node.children and serial not in waiting:
                raise IntegrityError(f"page {node.page} is an unheld leaf that eviction would miss")
        children = Counter(node.parent.serial for node in self._nodes.values() if node.parent)
        for node in (*self._roots.values(), *self._nodes.values()):
            if node.children != children[node.serial]:
                raise IntegrityError(
                    f"page {node.page} of the prefix tree has {node.children} children noted"
                )
        if len(self._below) != len(self._nodes):
            raise IntegrityError(
                f"{len(self._below)} of {len(self._nodes)} nodes can be found in the prefix tree"
            )
        if self.unused != sum(not node.refs for node in self._nodes.values()):
            raise IntegrityError(f"{self.unused} unheld pages are noted in the prefix tree, which is wrong")
        if len(self._nodes) != len(self.own):
            raise IntegrityError(f"the prefix tree has {len(self._nodes)} nodes and {len(self.own)} pages")

    def _offer(self, leaf: Node) -> None:
        heappush(self._leaves, (leaf.used, leaf.serial))
        if len(self._leaves) > 2 * len(self._nodes) + 64:  # mostly stale: start afresh
            nodes = self._nodes.values()
            self._leaves = [(n.used, n.serial) for n in nodes if not n.refs and not n.children]
            heapify(self._leaves)

    def _remove(self, leaf: Node) -> None:
        del self._nodes[leaf.serial]
        self.own.give(leaf.page)
        self.unused -= 1
        parent = leaf.parent
        if parent is None:
            raise IntegrityError("the root of a prefix tree was to be removed as a leaf")
        del self._below[parent.serial, leaf.chunk]
        parent.children -= 1
        if parent.children:
            return
        if parent.parent is not None:
            if not parent.refs:
                self._offer(parent)
        else:  # a salt that is gone leaves nothing behind
            del self._roots[parent.salt]


class PageTable:
    """The pages of one request while it runs.

        pages:  [ nodes of the tree, read only | its own, being written ]

    The first ``len(nodes)`` pages are the tree's and held; the others are in ``own``.
    """

    __slots__ = ("nodes", "own", "pages", "salt", "tainted", "tree")

    def __init__(self, tree: PrefixTree, salt: str, nodes: list[Node], name: str) -> None:
        tree.hold(nodes)
        self.tree = tree
        self.salt = salt
        self.nodes = nodes
        self.own = tree.pool.open(name)
        self.pages: tuple[int, ...] = tuple(node.page for node in nodes)
        self.tainted = False  # what was computed in it may not be served to others

    def grow(self, count: int) -> None:
        """``count`` more pages of its own, evicting for them; CapacityError when ``tree.room`` is less."""
        if count > self.tree.pool.free:
            self.tree.evict(count - self.tree.pool.free)
        self.pages += self.own.take(count)

    def share(self, tokens: Sequence[int], computed: int) -> Allocation | None:
        """Put the full pages of the first ``computed`` tokens into the tree.

        Where another request was faster, this table takes over the tree's page, which holds the same, and
        its own is spare. Returns the spare pages: close them when no launched step reads them any more.
        """
        if computed > len(tokens):
            raise IntegrityError(f"{self.own.name}: {computed} tokens computed, {len(tokens)} known")
        size, begin, end = self.tree.page_size, len(self.nodes), computed // self.tree.page_size
        if begin >= end:
            return None
        chunks = [tuple(tokens[index * size : (index + 1) * size]) for index in range(begin, end)]
        parent = self.nodes[-1] if begin else None
        pages = self.pages[begin:end]
        path = self.tree.insert(self.salt, parent, chunks, pages, self.own)
        self.nodes += path
        shared = tuple([node.page for node in path])
        if shared == pages:
            return None
        spare = self.tree.pool.open(f"spare pages of {self.own.name}")
        self.own.move([page for page, other in zip(pages, shared, strict=True) if page != other], spare)
        self.pages = self.pages[:begin] + shared + self.pages[end:]
        return spare

    def check(self) -> None:
        """``pages`` lists the nodes' pages, then the table's own; else IntegrityError."""
        shared, own = self.pages[: len(self.nodes)], self.pages[len(self.nodes) :]
        if shared != tuple(node.page for node in self.nodes) or sorted(own) != sorted(self.own.pages):
            raise IntegrityError(f"the page table of {self.own.name} does not list the pages that it has")

    def close(self) -> None:
        """Own pages become free; the tree's stay there, unheld. Closing twice is an error."""
        self.own.close()
        self.tree.release(self.nodes)
        if self.tainted:
            self.tree.forget(self.nodes)
