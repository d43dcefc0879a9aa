"""Steps that were planned and not yet committed, and the pages that they may still touch."""

from collections import deque
from dataclasses import dataclass

from fullbore.engine.decoding import Advance
from fullbore.engine.pages import Allocation
from fullbore.engine.prefix import PageTable
from fullbore.engine.request import Request
from fullbore.engine.step import Row, Step
from fullbore.errors import IntegrityError

LOOKAHEAD = 1  # uncommitted steps at most when the next is planned

Planned = tuple[Request, PageTable, Row]
Held = PageTable | Allocation


@dataclass(frozen=True, slots=True)
class Flight:
    """One step. ``others``: its rows beside the decodes, by age."""

    step: Step
    decodes: Advance
    others: list[Planned]


class Flights:
    """Steps land in the order in which they were launched; ``landed`` is the number of the last that did.

    ``interrupted``: up to this number, rows of flying steps may be of requests that ended since.
    """

    def __init__(self) -> None:
        self.landed = self.interrupted = 0
        self._flying: deque[Flight] = deque()
        self._retiring: list[tuple[int, Held]] = []  # closed when that step has landed

    def __len__(self) -> int:
        return len(self._flying)

    def check_room(self) -> None:
        """IntegrityError where no further step may be launched now."""
        if len(self._flying) > LOOKAHEAD:
            raise IntegrityError(
                f"{len(self._flying)} steps wait for their commit; at most {LOOKAHEAD} may at a plan"
            )

    def launch(self, flight: Flight) -> None:
        self._flying.append(flight)

    def land(self, step: Step) -> Flight:
        """The oldest one, which must be ``step``; else IntegrityError."""
        if not self._flying or self._flying[0].step is not step:
            expected = f"step {self._flying[0].step.number}" if self._flying else "none"
            raise IntegrityError(
                f"step {step.number} was committed, expected {expected}: commit in order of the plans"
            )
        self.landed = step.number
        return self._flying.popleft()

    @property
    def retiring(self) -> list[Held]:
        """What will be closed when a step lands."""
        return [held for _, held in self._retiring]

    def retire(self, held: Held, last_step: int) -> None:
        """Close now, or when the last step that may touch these pages has landed."""
        if last_step > self.landed:
            self._retiring.append((last_step, held))
        else:
            held.close()

    def close_due(self) -> None:
        """Close what no flying step may touch."""
        if self._retiring:
            due = [held for number, held in self._retiring if number <= self.landed]
            self._retiring = [entry for entry in self._retiring if entry[0] > self.landed]
            for held in due:
                held.close()

    def check(self) -> None:
        """Nothing waits for a step that will never land; else IntegrityError."""
        if self._retiring and not self._flying:
            raise IntegrityError(f"{len(self._retiring)} sets of pages wait for a step, and none is launched")
