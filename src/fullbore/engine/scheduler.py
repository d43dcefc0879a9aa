"""Which tokens of which requests each step computes.

Continuous batching, first come first served. A step takes every request that decodes and fills the rest of
its tokens with chunks of prompts. A request gets the pages of all its known tokens when it is admitted, and
one page at a time after that. When none is left, the youngest running request gives its pages back and waits
at the head of the queue; what it computed stays in the prefix tree as long as it can, the rest is computed
again.

Planning looks only at counts, so a step may be planned before the one before it was committed. A stop, an
abort or a failure that is found while a launched step still has a row of the request costs that row: its
result is dropped, and the pages are given back when that step is committed, never earlier.

How a loop uses it (commit before the next plan, or plan one step ahead):

    step = scheduler.plan()                      # None: nothing to launch now
    handle = runner.launch(step)
    events = scheduler.commit(step, handle.sampled())      # in the order of the plans

When a step raises: ``fail([row.request for row in step.rows], message)``, then ``commit(step, {})``. The
runner forgets what ``Step.ended`` names even if it never saw its start.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from fullbore.engine.flights import Flight, Flights, Planned
from fullbore.engine.messages import Emitted, Stats, Submit, TokenLogprob
from fullbore.engine.pages import Allocation, Pages
from fullbore.engine.prefix import Node, PageTable, PrefixTree
from fullbore.engine.request import Request, never_fits
from fullbore.engine.running import Running, table_of
from fullbore.engine.step import Row, Sampled, Started, Step
from fullbore.errors import IntegrityError, UsageError


class Scheduler:
    """``pages`` pages of ``page_size`` tokens; a step has at most ``max_num_seqs`` requests and
    ``max_num_batched_tokens`` tokens, a request ``max_model_len`` tokens; ``max_queued`` may wait beside
    the ``max_num_seqs`` that a step has room for.

    UsageError when these cannot go together.
    """

    def __init__(
        self,
        pages: int,
        page_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_queued: int,
        max_model_len: int,
        eos_token_ids: tuple[int, ...],
        prefix_caching: bool = True,
    ) -> None:
        least = {"page size": page_size, "max-num-seqs": max_num_seqs, "max-queued": max_queued}
        for name, value in least.items():
            if value < 1:
                raise UsageError(f"{name} {value} is too small: expected at least 1")
        if max_num_batched_tokens < max_num_seqs:
            raise UsageError(
                f"max-num-batched-tokens {max_num_batched_tokens} is below max-num-seqs {max_num_seqs}: "
                "a step must have room for one token of every request (raise the first or lower the second)"
            )
        self.page_size = page_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_queued = max_queued
        self.max_model_len = max_model_len
        self.eos_token_ids = eos_token_ids
        self.prefix_caching = prefix_caching
        self.pool = Pages(pages)
        self.tree = PrefixTree(self.pool, page_size)
        self._requests: dict[int, Request] = {}  # all that are not finished
        self._waiting: deque[Request] = deque()  # oldest first; all younger than those that run
        self._running = Running(page_size)
        self._flights = Flights()
        self._ended: list[int] = []  # to be told to the runner
        self._arrivals = self._planned = 0  # numbers of the last request and of the last planned step
        self._steps = self._preemptions = self._corrupted = 0
        self._prefix_queries = self._prefix_hits = self._prompt_tokens = self._generated_tokens = 0

    @property
    def idle(self) -> bool:
        """Nothing to plan, to commit or to tell the runner."""
        return not (self._requests or len(self._flights) or self._ended)

    def submit(self, submit: Submit) -> Emitted | None:
        """Queue a request; None, or the event that refuses it.

        ``refused``: the queue is full, later may do. ``error``: it can never be served, ``error`` says why.
        """
        problem = never_fits(submit, self.max_model_len, self.pool.total, self.page_size)
        if submit.request in self._requests:
            problem = f"request number {submit.request} is in use: expected one that is unique while it lives"
        if problem:
            return Emitted(submit.request, -1, "error", error=problem)
        # All requests count, not those that wait: a burst comes whole between two plans, and an idle engine
        # has room for more of it than may wait.
        most = self.max_num_seqs + self.max_queued
        if len(self._requests) >= most:
            full = f"{len(self._requests)} requests run or wait, {most} may (try again later)"
            return Emitted(submit.request, -1, "refused", error=full)
        self._arrivals += 1
        request = Request.of(submit, self._arrivals, self.eos_token_ids)
        self._requests[request.id] = request
        self._waiting.append(request)
        return None

    def abort(self, request: int) -> Emitted | None:
        """End a request now; its only further event is the one returned (None: no such request)."""
        known = self._requests.get(request)
        return None if known is None else self._end(known, "abort")

    def fail(self, requests: Iterable[int], message: str) -> list[Emitted]:
        """End these requests with finish ``error``; those that ended already are passed over."""
        known = [self._requests[number] for number in requests if number in self._requests]
        return [self._end(request, "error", message) for request in known]

    def end_all(self, reason: str, message: str = "") -> list[Emitted]:
        """End every request with this finish reason (``abort`` at shutdown)."""
        return [self._end(request, reason, message) for request in tuple(self._requests.values())]

    def plan(self) -> Step | None:
        """The next step, or None: nothing to launch until a step is committed or a request comes.

        A step may have no rows and only tell the runner which requests ended; it is launched and committed
        like any other. Rows of one token come first; among equals, older requests do.
        """
        self._flights.check_room()
        number, preemptions = self._planned + 1, self._preemptions
        running, decoding = self._running, self._running.decoding
        running.sort_out()
        room = self.max_num_batched_tokens - len(decoding)
        short = False  # of pages: then nobody is admitted
        for request in decoding.beginning():
            if request.base is not None and not self._has_page(request):  # who was preempted is no member now
                running.set_aside(request)
                short = True
        tokens = len(decoding)
        planned: list[Planned] = []
        for request in running.others:
            left = request.left
            if left > 1 and room:  # else nothing is to be sampled, or it has no page
                left = min(left, room)
                room -= left
                tokens += left
                planned.append(self._row(request, left))
        if self._preemptions > preemptions:  # not straight back in
            short = True
        decodes = running.advance(number)
        started = () if short else self._admit(planned, self.max_num_batched_tokens - tokens)
        if not tokens and not planned and not self._ended:
            return None
        others = [row for _, _, row in planned]
        others.sort(key=lambda row: row.count > 1)
        self._planned = number
        step = Step(number, tuple(others), started, tuple(self._ended), decodes.decodes)
        self._ended.clear()
        self._flights.launch(Flight(step, decodes, planned))
        return step

    def commit(self, step: Step, sampled: Mapping[int, Sampled]) -> list[Emitted]:
        """Take in what the oldest uncommitted step gave; the events of its requests, in order of age.

        A row that should have sampled and is not in ``sampled`` ends its request with an error.
        """
        flight = self._land(step, sampled.get)
        return self._take_all(flight, sampled.get) + self._commit_others(flight, sampled.get)

    def commit_alike(self, step: Step, result: Sampled) -> list[Emitted]:
        """``commit`` where each row that samples gave ``result``, whose token is all there is to it: for a
        simulation, in which tokens only count.

        Returns the events that end a request; each other row that samples stands for one token more.
        """
        flight = self._land(step, lambda _: result)
        decodes, token = flight.decodes, result.token
        if token in decodes.ends or step.number <= self._flights.interrupted:
            events = self._take_all(flight, lambda _: result)
        else:
            for take in decodes.takes:
                take(token)
            self._generated_tokens += len(decodes.takes)
            events = [self._say(request, result, "length") for request in decodes.over]
        events += self._commit_others(flight, lambda _: result)
        return [event for event in events if event.finish]

    def flush(self) -> int:
        """Forget every prefix that no running request uses; how many pages that freed."""
        return self.tree.flush()

    def stats(self, dropped_messages: int = 0) -> Stats:
        """Counters since the start and gauges of now."""
        return Stats(
            steps=self._steps,
            running=len(self._running),
            waiting=len(self._waiting),
            pages_total=self.pool.total,
            pages_used=self.pool.total - self.tree.room,
            preemptions=self._preemptions,
            prefix_queries=self._prefix_queries,
            prefix_hits=self._prefix_hits,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            corrupted=self._corrupted,
            dropped_messages=dropped_messages,
        )

    def check(self) -> None:
        """Every page is in one place, every count in order, every queue by age; else IntegrityError. Slow."""
        self._running.check(self.page_size)
        self._flights.check()
        retiring = self._flights.retiring
        tables = [pages for pages in retiring if isinstance(pages, PageTable)]
        tables += [table_of(request) for request in self._running.all]
        for table in tables:
            table.check()
        spares = [pages for pages in retiring if isinstance(pages, Allocation)]
        self.pool.check([self.tree.own, *(table.own for table in tables), *spares])
        self.tree.check([table.nodes for table in tables])
        queue = [*self._running.all, *self._waiting]
        ages = [request.arrival for request in queue]
        if ages != sorted(ages) or {request.id for request in queue} != set(self._requests):
            raise IntegrityError("running and waiting requests are not all requests in order of age")
        for request in queue:
            request.check_counts()
        for request in self._waiting:
            if request.table is not None or request.computed:
                raise IntegrityError(f"request {request.id} waits and has pages")

    def _row(self, request: Request, count: int) -> Planned:
        """Count these tokens of a running request as computed, and the next as known if it is sampled."""
        table = table_of(request)
        first = request.computed
        request.computed += count
        samples = request.computed == request.known
        if samples:
            request.known += 1
        request.last_step = self._planned + 1
        request.check_counts()
        return request, table, Row(request.id, first, count, table.pages, samples)

    def _has_page(self, request: Request) -> bool:
        """The next token of a decoding request has a slot, after preempting younger requests if need be."""
        table = table_of(request)
        self._running.decoding.settle(request)
        if request.computed < len(table.pages) * self.page_size:
            return True
        while not self.tree.room:
            # Pages that come back at the next commit are worth one step of waiting; and the youngest keeps
            # what it has until somebody older wants it.
            if self._flights.retiring or self._running.all[-1] is request:
                return False
            self._preempt()
        table.grow(1)
        self._running.decoding.repage(request, table)
        return True

    def _share(self, request: Request, table: PageTable, computed: int) -> None:
        """Pages that are full now go to the prefix tree."""
        if self.prefix_caching and computed // self.page_size > len(table.nodes):
            spare = table.share(request.tokens, computed)
            if spare is not None:
                self._running.decoding.settle(request)
                self._flights.retire(spare, request.last_step)
                if request.base is not None and request.table is table:
                    self._running.decoding.repage(request, table)

    def _preempt(self) -> None:
        """The youngest running request gives its pages back and waits, before all others."""
        self._waiting.appendleft(request := self._running.all[-1])
        self._release(request)
        request.cached = request.computed = 0
        self._preemptions += 1

    def _admit(self, planned: list[Planned], tokens: int) -> tuple[Started, ...]:
        """Let waiting requests run, oldest first, while rows, tokens and pages last."""
        started: list[Started] = []
        while self._waiting and tokens and len(self._running) < self.max_num_seqs:
            request = self._waiting[0]
            # A preempted request waits for the value of its last token; a number that is used again waits
            # until the runner has forgotten its last bearer.
            if request.last_step > self._flights.landed or request.id in self._ended:
                break
            table = self._open_table(request)
            if table is None:
                break
            self._running.add(self._waiting.popleft())
            request.table = table
            request.cached = request.computed = len(table.nodes) * self.page_size
            if not request.started:
                request.started = True
                request.hit = request.cached
                self._prompt_tokens += len(request.prompt)
                self._prefix_queries += len(request.prompt) if self.prefix_caching else 0
                self._prefix_hits += request.hit
                started.append(Started(request.id, request.prompt, request.sampling))
            count = min(request.left, tokens)
            tokens -= count
            planned.append(self._row(request, count))
        return tuple(started)

    def _open_table(self, request: Request) -> PageTable | None:
        """Pages for all known tokens, as many as possible from the prefix tree; None when there is no room.

        One page for each running request is left, since each will soon want one: else it would take them
        from this one again.
        """
        nodes: list[Node] = []
        if self.prefix_caching:
            # At least one token must be computed, to have logits.
            nodes = self.tree.match(request.salt, request.tokens, (request.known - 1) // self.page_size)
        wanted = -(-request.known // self.page_size) - len(nodes)
        if wanted + len(self._running) > self.tree.room - sum(not node.refs for node in nodes):
            return None
        table = PageTable(self.tree, request.salt, nodes, f"request {request.id}")
        table.grow(wanted)
        return table

    def _land(self, step: Step, get: Callable[[int], Sampled | None]) -> Flight:
        """The oldest flight, with the pages that its decodes filled in the prefix tree."""
        flight = self._flights.land(step)
        self._steps += bool(flight.decodes.requests or flight.others)
        for request, table, computed in flight.decodes.filled:
            result = get(request.id)
            if result and not (result.error or request.finish):
                self._share(request, table, computed)
        return flight

    def _take_all(self, flight: Flight, get: Callable[[int], Sampled | None]) -> list[Emitted]:
        """The decodes."""
        return [
            self._take(request, table, get(request.id))
            for request, table in zip(flight.decodes.requests, flight.decodes.tables, strict=True)
            if not request.finish  # else stopped, aborted or failed after this step was planned
        ]

    def _commit_others(self, flight: Flight, get: Callable[[int], Sampled | None]) -> list[Emitted]:
        """The rows after the decodes; then pages that this flight was the last to touch are free."""
        events: list[Emitted] = []
        for request, table, row in flight.others:
            if request.finish:
                continue
            result = get(request.id)
            if not row.samples or (result and not result.error):
                self._share(request, table, row.first + row.count)
            if row.samples:
                events.append(self._take(request, table, result))
        self._flights.close_due()
        return events

    def _take(self, request: Request, table: PageTable, result: Sampled | None) -> Emitted:
        """The event of a row that should have sampled; ends the request if it is its last."""
        if result is None or result.error:
            self._corrupted += result is not None
            table.tainted = True
            return self._end(request, "error", result.error if result else "the step gave no token")
        token, tokens = result.token, request.tokens
        tokens.append(token)
        self._generated_tokens += 1
        finish = ""
        if token in request.ends:
            finish = "stop"
        elif len(tokens) == request.most:
            finish = "length"
        if not (finish or result.top) and request.announced:
            return Emitted(request.id, token, "", result.logprob)
        return self._say(request, result, finish)

    def _say(self, request: Request, result: Sampled, finish: str) -> Emitted:
        """The event of a token that was taken; the request's last if it has a ``finish``."""
        top = [TokenLogprob(token, logprob) for token, logprob in result.top]
        cached = 0 if request.announced else request.hit
        request.announced = True
        if finish:
            self._forget(request, finish)
        return Emitted(request.id, result.token, finish, result.logprob, top, cached)

    def _end(self, request: Request, finish: str, message: str = "") -> Emitted:
        """End a request without a token."""
        self._forget(request, finish)
        return Emitted(request.id, -1, finish, cached=0 if request.announced else request.hit, error=message)

    def _forget(self, request: Request, finish: str) -> None:
        request.finish = finish
        del self._requests[request.id]
        if request.table is None:
            self._waiting.remove(request)
        else:
            self._release(request)
        if request.last_step > self._flights.landed:
            self._flights.interrupted = max(self._flights.interrupted, request.last_step)
        if request.started:
            self._ended.append(request.id)

    def _release(self, request: Request) -> None:
        """A running request gives its pages back and runs no longer."""
        self._running.remove(request)
        self._flights.retire(table_of(request), request.last_step)
        request.table = None
