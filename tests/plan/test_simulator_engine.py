"""The simulator and the engine's loop, asked for the same, take the same steps."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from fullbore.engine.loop import Loop
from fullbore.engine.messages import Command, Emitted, Outputs, Report, Submit
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.step import Sampled, Step
from fullbore.plan.simulator import ANSWER, GREEDY, Server, simulate
from fullbore.scenario.prompt import Request, Segment, Session

VOCAB = 1000
Rows = list[tuple[int, int, int, bool]]


class Echo:
    """A runner that says ``ANSWER``; also its own handle."""

    def __init__(self) -> None:
        self.steps: list[Rows] = []
        self._said: dict[int, Sampled] = {}

    def launch(self, step: Step) -> "Echo":
        if step.rows:
            self.steps.append(seen(step))
        self._said = {row.request: Sampled(ANSWER) for row in step.rows if row.samples}
        return self

    def sampled(self) -> Mapping[int, Sampled]:
        return self._said


class Wire:
    """Brings all requests at once."""

    dropped = 0

    def __init__(self, commands: list[Command]) -> None:
        self._commands = commands
        self.events: list[Emitted] = []

    def receive(self, timeout_s: float) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def send(self, report: Report) -> None:
        if isinstance(report, Outputs):
            self.events += report.events


def seen(step: Step) -> Rows:
    return [(row.request, row.first, row.count, row.samples) for row in step.rows]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(18, 60),
    st.integers(1, 6),
    st.integers(0, 20),
    st.booleans(),
)
def test_the_same_steps(
    lengths: list[tuple[int, int]], pages: int, seqs: int, more: int, caching: bool
) -> None:
    server = Server(pages, 4, seqs, seqs + more, prefix_caching=caching)
    # Numbers count from 1 in the simulator, in the order of sending; no two prompts share a token.
    sessions = [
        Session(n, (Request(n, (Segment(f"p{n}", inputs),), outputs),))
        for n, (inputs, outputs) in enumerate(lengths)
    ]
    steps: list[Rows] = []

    def watch(step: Step) -> float:
        steps.append(seen(step))
        return 0.01

    found = simulate(sessions, server, watch, len(sessions))

    runner = Echo()
    prompts = [[n + 2] + [1] * (inputs - 1) for n, (inputs, _) in enumerate(lengths)]
    wire = Wire(
        [
            Submit(n + 1, prompt, outputs, GREEDY)
            for n, (prompt, (_, outputs)) in enumerate(zip(prompts, lengths, strict=True))
        ]
    )
    scheduler = Scheduler(pages, 4, seqs, seqs + more, 1024, 163840, (), caching)
    loop = Loop(scheduler, runner, wire, VOCAB)
    loop.drain()
    loop.run()

    assert steps == runner.steps
    assert found.preemptions == scheduler.stats().preemptions
    assert sum(record.output_tokens for record in found.records) == sum(
        event.token == ANSWER for event in wire.events
    )
