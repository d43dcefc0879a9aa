"""What was measured, as a value: times, verdicts on numerics, ceilings. Imports no torch.

Tables merge: whatever the order, the same table comes out, since each key keeps its greatest record by a
total order (a thorough time before a quick one, then the newest).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from fullbore.ops.contract import Job, Shape

Sizes = tuple[tuple[str, int], ...]  # sorted by name
THOROUGH = 30  # readings, from which on a time is not replaced by one of fewer
WORST = 1e300  # stands for an infinite error, which JSON cannot hold


class Subject(msgspec.Struct, frozen=True, order=True):
    """A job with every size that its inputs have but the step's own."""

    operator: str
    shape: Sizes
    format: str
    dtype: str
    device: str

    @staticmethod
    def of(job: "Job", shape: "Shape") -> "Subject":
        return Subject(job.operator, tuple(sorted(shape.items())), job.format, job.dtype, job.device)


class Timing(msgspec.Struct, frozen=True, order=True, tag="timing"):
    """One kernel at one token count. ``code`` identifies the kernel's code; times of other code are stale."""

    subject: Subject
    kernel: str
    code: str
    tokens: int
    context: int
    repeats: int
    when: float  # seconds since 1970
    median_us: float
    low_us: float  # quartiles
    high_us: float
    floor_us: float  # of the roofline, with the ceilings measured in the same run
    bound: str  # read or flops: which ceiling makes the floor
    packed_bytes: int
    warm_us: float = 0.0  # median with all weights in a cache, scaled to as many bytes; 0 where not measured

    @property
    def key(self) -> tuple[object, ...]:
        return ("timing", self.subject, self.kernel, self.code, self.tokens, self.context)

    @property
    def rank(self) -> tuple[object, ...]:
        """The larger is kept when two have one key."""
        return (self.repeats >= THOROUGH, self.when, self.repeats, -self.median_us, self)


class Verdict(msgspec.Struct, frozen=True, order=True, tag="verdict"):
    """Whether a kernel's numbers are right: the largest error, and where it was seen."""

    subject: Subject
    kernel: str
    code: str
    when: float
    passed: bool
    error: float
    limit: float
    case: str  # where the error was largest, in words
    failure: str = ""  # what it raised

    @property
    def key(self) -> tuple[object, ...]:
        return ("verdict", self.subject, self.kernel, self.code)

    @property
    def rank(self) -> tuple[object, ...]:
        return (self.when, not self.passed, self)

    @property
    def reason(self) -> str:
        """Of a refusal, for people."""
        if self.failure:
            return f"refused: {self.failure} ({self.case})"
        return f"refused: its error is {self.error:.1e}, {self.limit:.1e} is allowed ({self.case})"


class Begun(msgspec.Struct, frozen=True, order=True, tag="begun"):
    """An examination began, or (``open`` false) was left by an error that was caught. One that stays open and
    has no verdict ended its process: an instruction that this processor lacks, a write out of bounds."""

    subject: Subject
    kernel: str
    code: str
    when: float
    open: bool

    @property
    def key(self) -> tuple[object, ...]:
        return ("begun", self.subject, self.kernel, self.code)

    @property
    def rank(self) -> tuple[object, ...]:
        return (self.when, not self.open)


class Seen(msgspec.Struct, frozen=True, order=True, tag="ceiling"):
    """The machine's ceilings as measured: bytes/s, operations/s."""

    when: float
    read: float
    flops: tuple[tuple[str, float], ...]

    @property
    def key(self) -> tuple[object, ...]:
        return ("ceiling",)

    @property
    def rank(self) -> tuple[object, ...]:
        return (self.when, self)


class Covered(msgspec.Struct, frozen=True, order=True, tag="covered"):
    """All that ``model`` (a digest) needs was measured with this code, in at least this mode."""

    model: str
    code: str
    dtype: str
    when: float

    @property
    def key(self) -> tuple[object, ...]:
        return ("covered", self.model, self.code, self.dtype)

    @property
    def rank(self) -> tuple[object, ...]:
        return (self.when, self)


Record = Timing | Verdict | Begun | Seen | Covered


class Times:
    """A table of records, never changed after it is made."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        best: dict[tuple[object, ...], Record] = {}
        for record in records:
            held = best.get(record.key)
            if held is None or record.rank > held.rank:
                best[record.key] = record
        self._records: Mapping[tuple[object, ...], Record] = best
        self._ladders: dict[tuple[Subject, str, str], list[Timing]] = {}
        for record in best.values():
            if isinstance(record, Timing):
                self._ladders.setdefault((record.subject, record.kernel, record.code), []).append(record)

    def __iter__(self) -> Iterator[Record]:
        """In one order, whatever the order they came in."""
        return iter(sorted(self._records.values(), key=lambda record: (type(record).__name__, record)))

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Times) and self._records == other._records

    __hash__ = None  # type: ignore[assignment]

    def merged(self, *others: Iterable[Record]) -> "Times":
        """This table and others; commutative, associative, and nothing changes the second time."""
        return Times([*self._records.values(), *(record for other in others for record in other)])

    def ladder(self, subject: Subject, kernel: str, code: str) -> tuple[Timing, ...]:
        """Every time of a kernel's present code at this subject."""
        return tuple(self._ladders.get((subject, kernel, code), ()))

    def relatives(self, subject: Subject, kernel: str, code: str) -> tuple[Subject, ...]:
        """Subjects that differ in sizes alone and have times of this kernel, in a fixed order."""
        like = (subject.operator, subject.format, subject.dtype, subject.device)
        found = {
            other
            for other, name, hash in self._ladders
            if (name, hash) == (kernel, code)
            and other != subject
            and like == (other.operator, other.format, other.dtype, other.device)
        }
        return tuple(sorted(found))

    def older(self, subject: Subject, kernel: str, code: str) -> tuple[Timing, ...]:
        """Times of other code of this kernel, or of any code where ``code`` is "": what it once took."""
        ladders = ((key, times) for key, times in self._ladders.items() if key[2] != code)
        return tuple(time for key, times in ladders if key[:2] == (subject, kernel) for time in times)

    def verdict(self, subject: Subject, kernel: str, code: str) -> Verdict | None:
        found = self._records.get(("verdict", subject, kernel, code))
        return found if isinstance(found, Verdict) else None

    def ended_a_process(self, subject: Subject, kernel: str, code: str) -> bool:
        """Whether an examination of this kernel never came back."""
        found = self._records.get(("begun", subject, kernel, code))
        return isinstance(found, Begun) and found.open and self.verdict(subject, kernel, code) is None

    @property
    def ceiling(self) -> Seen | None:
        """The latest."""
        found = self._records.get(("ceiling",))
        return found if isinstance(found, Seen) else None

    def covers(self, model: str, code: str, dtype: str) -> bool:
        return ("covered", model, code, dtype) in self._records
