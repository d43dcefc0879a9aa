"""A scheduler, a runner that knows what must be in every slot of the cache, and what each request must say.

The runner's "network" is a hash: the latent of a token is a hash of the tenant's salt and of all tokens up to
it, and the next token is drawn from that. A row that reads a page which does not hold exactly its own prefix,
a row that writes where somebody else may read, a token that was lost or said twice: all of it shows.
"""

import random
from collections import deque
from dataclasses import dataclass, field

from fullbore.engine.messages import Emitted, Sampling, Submit
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Row, Sampled, Step

EOS = 0
STOP = 1  # a stop_token_id of some requests


@dataclass(frozen=True)
class Shape:
    """Sizes small enough that pages run out all the time."""

    pages: int = 8
    page_size: int = 2
    max_num_seqs: int = 3
    max_num_batched_tokens: int = 6
    max_queued: int = 4
    max_model_len: int = 24
    prefix_caching: bool = True
    lookahead: int = 0
    vocab: int = 12

    @staticmethod
    def draw(rng: random.Random) -> "Shape":
        seqs = rng.randint(1, 5)
        size = rng.randint(1, 4)
        longest = rng.randint(6, 30)
        return Shape(
            pages=max(2, int(longest / size * rng.uniform(0.7, 2.5))),
            page_size=size,
            max_num_seqs=seqs,
            max_num_batched_tokens=seqs + rng.randint(0, 8),
            max_queued=rng.randint(1, 6),
            max_model_len=longest,
            prefix_caching=rng.random() < 0.85,
            lookahead=rng.randint(0, 1),
            vocab=rng.choice((3, 12, 60, 60)),
        )


@dataclass
class Told:
    """What the runner keeps of a request: tokens, and the hash of each prefix."""

    tokens: list[int]
    hashes: list[int]
    sampling: Sampling
    vocab: int

    @staticmethod
    def start(prompt: tuple[int, ...], salt: str, sampling: Sampling, vocab: int) -> "Told":
        told = Told([], [], sampling, vocab)
        told.hashes.append(hash(tuple(salt.encode())))
        for token in prompt:
            told.add(token)
        return told

    def add(self, token: int) -> None:
        self.tokens.append(token)
        self.hashes.append(hash((self.hashes[-1], token)))

    def next(self) -> int:
        return hash((self.hashes[-1], self.sampling.seed or 0)) % self.vocab


@dataclass
class Expected:
    """A request as its client sees it."""

    submit: Submit
    tokens: list[int]  # what it says when it is alone
    finish: str
    said: list[int] = field(default_factory=list)
    events: int = 0


def alone(submit: Submit, vocab: int) -> Expected:
    told = Told.start(tuple(submit.prompt), submit.salt, submit.sampling, vocab)
    ends = set(submit.sampling.stop_token_ids) | (set() if submit.sampling.ignore_eos else {EOS})
    out: list[int] = []
    while len(out) < submit.max_tokens:
        out.append(told.next())
        told.add(out[-1])
        if out[-1] in ends:
            return Expected(submit, out, "stop")
    return Expected(submit, out, "length")


class World:
    """Drives a scheduler by single moves and raises AssertionError at the first thing that is wrong."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.scheduler = Scheduler(
            shape.pages,
            shape.page_size,
            shape.max_num_seqs,
            shape.max_num_batched_tokens,
            shape.max_queued,
            shape.max_model_len,
            (EOS,),
            shape.prefix_caching,
        )
        self.live: dict[int, Expected] = {}
        self.done: dict[int, Expected] = {}
        self.runner: dict[int, Told] = {}
        self.salts: dict[int, str] = {}
        self.slots: dict[tuple[int, int], int] = {}  # (page, offset) -> hash of the prefix that ends there
        self.launched: deque[tuple[Step, dict[int, Sampled]]] = deque()
        self.to_end: set[int] = set()  # finished, and the runner must hear of it
        self.steps: list[Step] = []
        self.numbers = 0

    # moves

    def submit(self, prompt: list[int], max_tokens: int, sampling: Sampling, salt: str = "") -> int:
        self.numbers += 1
        request = Submit(self.numbers, prompt, max_tokens, sampling, salt)
        before = self.scheduler.stats()
        refusal = self.scheduler.submit(request)
        most = len(prompt) + max_tokens
        fits = most <= self.shape.max_model_len and most - 1 <= self.shape.pages * self.shape.page_size
        if not fits:
            assert refusal is not None
            assert (refusal.finish, refusal.token) == ("error", -1)
            assert str(most) in refusal.error or str(len(prompt)) in refusal.error
        elif before.running + before.waiting >= self.shape.max_num_seqs + self.shape.max_queued:
            assert refusal is not None
            assert refusal.finish == "refused"
        else:
            assert refusal is None
            self.live[request.request] = alone(request, self.shape.vocab)
            self.salts[request.request] = salt
        self.check()
        return request.request

    def abort(self, number: int) -> None:
        event = self.scheduler.abort(number)
        assert (event is not None) == (number in self.live)
        if event is not None:
            assert event.finish == "abort"
            self._hear([event], {number: "abort"})
        self.check()

    def plan(self) -> Step | None:
        """Plan and launch, if the loop may."""
        if len(self.launched) > self.shape.lookahead:
            return None
        busy = not self.scheduler.idle
        step = self.scheduler.plan()
        if step is None:
            # With nothing under way the scheduler must always find something to do.
            assert self.launched or not busy, "work is left, no step is launched, and none was planned"
        else:
            self._launch(step)
        self.check()
        return step

    def commit(self, corrupt: int = -1) -> None:
        """Commit the oldest launched step; ``corrupt`` picks a sampling row whose logits are not finite."""
        if not self.launched:
            return
        step, sampled = self.launched.popleft()
        excused = {}
        if corrupt >= 0 and sampled:
            number = list(sampled)[corrupt % len(sampled)]
            sampled[number] = Sampled(-1, error="not finite")
            excused[number] = "error"
        self._hear(self.scheduler.commit(step, sampled), excused)
        self.check()

    def crash(self) -> None:
        """The oldest launched step raised."""
        if not self.launched:
            return
        step, _ = self.launched.popleft()
        numbers = [row.request for row in step.rows]
        living = {number: "error" for number in numbers if number in self.live}
        events = self.scheduler.fail(numbers, "it raised")
        assert {event.request for event in events} == set(living)
        assert all(event.error == "it raised" for event in events)
        self._hear(events, living)
        assert self.scheduler.commit(step, {}) == []
        self.check()

    def flush(self) -> None:
        self.scheduler.flush()
        assert self.scheduler.tree.unused == 0
        self.check()

    def end_all(self) -> None:
        living = dict.fromkeys(self.live, "abort")
        self._hear(self.scheduler.end_all("abort"), living)
        assert not self.live
        self.check()

    def drain(self) -> None:
        """Run until idle; every request must have ended as it should, and every page must be back."""
        todo = sum(len(e.submit.prompt) + e.submit.max_tokens for e in self.live.values())
        limit = 20 + 4 * todo * (1 + len(self.live))
        while not self.scheduler.idle:
            limit -= 1
            assert limit > 0, "no progress"
            step = self.plan()
            while self.launched and (step is None or len(self.launched) > self.shape.lookahead):
                self.commit()
        assert self.scheduler.plan() is None
        assert not self.live
        assert not self.runner, "the runner was not told of all ends"
        pool, tree = self.scheduler.pool, self.scheduler.tree
        assert pool.free + tree.unused == pool.total
        assert self.scheduler.stats().pages_used == 0
        self.scheduler.flush()
        assert pool.free == pool.total
        self.scheduler.check()

    # what must hold

    def check(self) -> None:
        self.scheduler.check()
        for step, _ in self.launched:  # what a launched step may touch is nobody's to give away
            for row in step.rows:
                assert all(self.scheduler.pool.owner(page) for page in row.pages), "a launched page is free"

    def _launch(self, step: Step) -> None:
        shape = self.shape
        assert step.number == len(self.steps) + 1
        assert step.rows or step.ended
        assert len(step.rows) <= shape.max_num_seqs
        assert step.tokens <= shape.max_num_batched_tokens
        assert len({row.request for row in step.rows}) == len(step.rows)
        counts = [row.count for row in step.rows]
        assert all(counts)
        assert counts[: counts.count(1)] == [1] * counts.count(1), "decodes come first"
        for started in step.started:
            assert started.request in {row.request for row in step.rows}
            assert started.request not in self.runner, "started twice"
            self.runner[started.request] = Told.start(
                started.prompt, self.salts[started.request], started.sampling, shape.vocab
            )
        self._check_writes(step)
        sampled: dict[int, Sampled] = {}
        for row in step.rows:
            self._compute(row)
        for row in step.rows:
            told = self.runner[row.request]
            if row.samples:
                token = told.next()
                told.add(token)
                sampled[row.request] = Sampled(token, -0.5, ((token, -0.5),))
        for ended in step.ended:
            assert ended in self.to_end
            self.to_end.remove(ended)
            del self.runner[ended]  # KeyError: ended twice, or never started
        self.launched.append((step, sampled))
        self.steps.append(step)

    def _check_writes(self, step: Step) -> None:
        """No row writes into the tree, or into a page that another row of a launched step may touch."""
        size = self.shape.page_size
        tree = set(self.scheduler.tree.own.pages)
        users: dict[int, set[int]] = {}
        for other in [*(launched for launched, _ in self.launched), step]:
            for row in other.rows:
                for page in row.pages:
                    users.setdefault(page, set()).add(row.request)
        for row in step.rows:
            assert row.request in self.live, "a row for a request that is over"
            assert len(row.pages) * size >= row.first + row.count
            assert len(set(row.pages)) == len(row.pages)
            for page in row.pages[row.first // size : (row.first + row.count - 1) // size + 1]:
                assert page not in tree, "a row writes into the prefix tree"
                assert users[page] == {row.request}, "a row writes into a page of another"

    def _compute(self, row: Row) -> None:
        told, size = self.runner[row.request], self.shape.page_size
        end = row.first + row.count
        assert end <= len(told.tokens), "a token is computed before it is sampled"
        assert row.samples == (end == len(told.tokens))
        for position in range(row.first, end):
            self.slots[row.pages[position // size], position % size] = told.hashes[position + 1]
        for position in range(end):
            found = self.slots.get((row.pages[position // size], position % size))
            assert found == told.hashes[position + 1], (
                f"request {row.request} reads another prefix at {position}"
            )

    def _hear(self, events: list[Emitted], excused: dict[int, str]) -> None:
        for event in events:
            request = self.live[event.request]  # KeyError: an event after the last
            request.events += 1
            assert event.cached == 0 or request.events == 1
            assert event.cached < len(request.submit.prompt)
            assert event.cached % self.shape.page_size == 0
            if event.token >= 0:
                assert not event.error
                assert event.logprob == -0.5
                assert [top.token for top in event.top] == [event.token]
                request.said.append(event.token)
                assert request.said == request.tokens[: len(request.said)], "not what it says alone"
                over = len(request.said) == len(request.tokens)
                assert event.finish == (request.finish if over else "")
            else:
                assert event.finish == excused[event.request]
            if event.finish:
                self.done[event.request] = self.live.pop(event.request)
                if event.request in self.runner:
                    self.to_end.add(event.request)


def draw_submit(
    rng: random.Random, shape: Shape, stems: list[list[int]], talkative: bool = False
) -> tuple[list[int], int, Sampling, str]:
    """A prompt that likely shares its start with others, and a request that likely fits.

    Talkative requests have short prompts and long answers: admitted together, they run out of pages later.
    """
    stem = rng.choice(stems)[: 3 if talkative else None]
    prompt = stem[: rng.randint(1, len(stem))] + [rng.randrange(3) for _ in range(rng.randint(0, 3))]
    most = min(shape.max_model_len, shape.pages * shape.page_size + 1) + rng.choice((0,) * 9 + (1,))
    prompt = prompt[: max(1, most - 1)]
    sampling = Sampling(
        seed=rng.choice((None, None, 1, 2)),
        ignore_eos=talkative or rng.random() < 0.3,
        stop_token_ids=(STOP,) if rng.random() < 0.2 else (),
    )
    room = max(1, most - len(prompt))
    max_tokens = room if talkative else rng.choice((1, room, rng.randint(1, room)))
    return prompt, max_tokens, sampling, rng.choice(("", "", "", "tenant"))


def random_history(seed: int, moves: int = 60) -> World:
    """One random history from one number, drained at its end."""
    rng = random.Random(seed)
    shape = Shape.draw(rng)
    world = World(shape)
    stems = [[rng.randrange(3) for _ in range(rng.randint(1, 20))] for _ in range(2)]
    faults, talkative = rng.random() < 0.3, rng.random() < 0.5
    for _ in range(moves):
        move = rng.random()
        if move < 0.16:
            world.submit(*draw_submit(rng, shape, stems, talkative))
        elif move < 0.55:
            world.plan()
        elif move < 0.94:
            world.commit(rng.randrange(4) if faults and rng.random() < 0.05 else -1)
        elif move < 0.97:
            world.abort(rng.randint(max(1, world.numbers - 6), world.numbers + 1))
        elif move < 0.98:
            world.flush()
        elif faults and move < 0.988:
            world.crash()
        elif faults and move < 0.99:
            world.end_all()
    world.drain()
    return world
