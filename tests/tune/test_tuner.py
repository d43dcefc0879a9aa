"""What is measured, in which order, kept when, and not measured twice. No real clock decides anything."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from toy_kernels import CLOCK, PROBES, RUNS, Odd, Quick, Raises, Toy, Wrong, entry, registry

from fullbore.ops.code import kernel_code
from fullbore.ops.contract import Job
from fullbore.ops.demand import LADDER, Workload
from fullbore.ops.registry import Entry, Registry
from fullbore.ops.store import Store
from fullbore.ops.times import Begun, Record, Seen, Times, Timing, Verdict
from fullbore.ops.tuned import Tuned, shortfalls
from fullbore.scenario.mix import StepShape
from fullbore.tune.points import QUICK, THOROUGH, Mode, points, timed_sizes
from fullbore.tune.timing import ClockTimer, Effort
from fullbore.tune.tuner import Bench, Tuner

SMALL = Job("linear", (("in", 64), ("out", 32)), "bf16", "float32", "cpu")
LARGE = Job("linear", (("in", 512), ("out", 32)), "bf16", "float32", "cpu")
WORK = Workload({(SMALL,): 2, (LARGE,): 1}, {}, bytes=1 << 16)
MODE = Mode("toy", (1, 8, 64), (), Effort(0.0, 3, 3), 1.0)
FEW = (StepShape(1, 100, (), 1, 1.0),)
MANY = (StepShape(64, 100, (), 64, 1.0),)
MOMENTS = count(1000.0)
BENCH = Bench(PROBES, 1 << 16, 1 << 30, ClockTimer(CLOCK), now=lambda: next(MOMENTS))


def tuner(kernels: Registry, kept: list[Record], times: Iterable[Record] = (), **changes: object) -> Tuner:
    settings: dict[str, object] = {"work": WORK, "mix": FEW, "mode": MODE, "bench": BENCH, **changes}
    return Tuner(kernels, times=Times(times), keep=kept.extend, **settings)  # type: ignore[arg-type]


def test_each_kernel_is_examined_before_it_is_timed_and_a_wrong_one_never_is() -> None:
    kept: list[Record] = []
    times = tuner(registry(Toy, Wrong, Quick, Raises), kept).run()
    verdicts = [record for record in kept if isinstance(record, Verdict)]
    assert {(v.subject.shape, v.kernel, v.passed) for v in verdicts} == {
        (job.shape, name, passed)
        for job in (SMALL, LARGE)
        for name, passed in (("steady", True), ("wrong", False), ("quick", True), ("raises", False))
    }
    timed = [record for record in kept if isinstance(record, Timing)]
    assert {timing.kernel for timing in timed} == {"steady", "quick"}
    assert {timing.tokens for timing in timed} == {1, 8, 64}
    for timing in timed:
        fixed, token = (10, 10) if timing.kernel == "steady" else (100, 1)
        assert timing.median_us == pytest.approx(fixed + token * timing.tokens)
        assert timing.repeats == 3
        verdict = times.verdict(timing.subject, timing.kernel, timing.code)
        assert verdict is not None
        assert kept.index(verdict) < kept.index(timing)
        assert timing.packed_bytes == 4 * 32 * dict(timing.subject.shape)["in"] * (
            1 + (timing.kernel == "quick")
        )
    assert Times(kept) == times
    assert any(isinstance(record, Seen) for record in kept)


def test_the_winner_follows_the_scenario_and_the_refused_are_named() -> None:
    kernels = registry(Toy, Wrong, Quick, Raises)
    times = tuner(kernels, []).run()
    few = Tuned(times, FEW)(WORK, kernels, "float32")
    many = Tuned(times, MANY)(WORK, kernels, "float32")
    assert {choice.kernel.name for choice in few.choices.values()} == {"steady"}
    assert {choice.kernel.name for choice in many.choices.values()} == {"quick"}
    for selection in (few, many):
        told = " ".join(shortfalls(selection))
        assert "kernel wrong refused: its error is 1.0e-02" in told
        assert "kernel raises refused: RuntimeError: illegal instruction" in told
        assert "kernel absent cannot be imported" in told
        assert told.count("kernel absent") == 1, "one line for one cause"


def test_a_kernel_that_is_gone_is_told_with_what_it_once_took() -> None:
    """A library that was removed, a compiler that is missing."""
    times = tuner(registry(Toy, Quick), []).run()
    without = Registry([Entry("linear", "quick", "no_such_library:Quick"), entry(Toy)])
    selection = Tuned(times, MANY)(WORK, without, "float32")
    (told,) = shortfalls(selection)
    assert "kernel quick cannot be imported: No module named 'no_such_library'" in told
    assert f"linear by steady ({(10 + 640) / (100 + 64):.3g}x its time)" in told


def test_kernels_may_differ_by_tokens_where_that_is_asked_for() -> None:
    kernels = registry(Toy, Quick)
    times = tuner(kernels, [], mode=Mode("all", LADDER, (), Effort(0.0, 1, 1), 1.0)).run()
    choice = Tuned(times, FEW, by_tokens=True)(WORK, kernels, "float32").choices[SMALL]
    for tokens in LADDER:
        fastest = "steady" if 10 + 10 * tokens < 100 + tokens else "quick"
        assert choice.at(tokens).name == fastest
    assert choice.names == "steady to 8 tokens, quick beyond"


def test_memory_decides_where_it_must() -> None:
    kernels = registry(Toy, Quick)
    times = tuner(kernels, []).run()
    small = 2 * 4 * 32 * 64 + 4 * 32 * 512
    for limit, names in ((small, {"steady"}), (2 * small, {"quick"}), (None, {"quick"})):
        selection = Tuned(times, MANY, memory_bytes=limit)(WORK, kernels, "float32")
        assert {choice.kernel.name for choice in selection.choices.values()} == names


def test_what_is_known_is_not_measured_again() -> None:
    kernels, kept = registry(Toy, Quick), list[Record]()
    times = tuner(kernels, kept).run()
    RUNS.clear()
    again: list[Record] = []
    assert tuner(kernels, again, times).run() == times
    assert (RUNS, again) == ([], [])
    more = Mode("more", (1, 8, 64, 128), (), Effort(0.0, 3, 3), 1.0)
    tuner(kernels, again, times, mode=more).run()
    assert {record.tokens for record in again if isinstance(record, Timing)} == {128}
    assert not any(isinstance(record, Verdict) for record in again)


def test_a_new_rival_is_timed_beside_the_old_ones() -> None:
    """In turns with them, not against what they took some other day."""
    times = tuner(registry(Toy), []).run()
    kept: list[Record] = []
    tuner(registry(Toy, Quick), kept, times).run()
    assert {record.kernel for record in kept if isinstance(record, Verdict)} == {"quick"}
    assert {record.kernel for record in kept if isinstance(record, Timing)} == {"steady", "quick"}


def test_changed_code_makes_times_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = registry(Toy, Quick)
    times = tuner(kernels, []).run()
    library = Path(__file__)
    monkeypatch.setattr(Quick, "binary", classmethod(lambda cls: str(library)))
    selection = Tuned(times, MANY)(WORK, kernels, "float32")
    assert {choice.kernel.name for choice in selection.choices.values()} == {"steady"}
    kept: list[Record] = []
    tuner(kernels, kept, times).run()
    assert {record.kernel for record in kept if isinstance(record, Verdict)} == {"quick"}


@pytest.mark.parametrize("after", [1, 5, 20, 60])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, after: int) -> None:
    class Interrupted(Toy):
        name = "quick"
        left = 200 + after

        def run(self, packed: object, *inputs: object) -> object:
            type(self).left -= 1
            if type(self).left == 0:
                raise KeyboardInterrupt
            return super().run(packed, *inputs)

    import toy_kernels

    store = Store({"cpu": "toy"}, tmp_path)
    whole = registry(Toy, Quick)
    last = whole.candidates("linear")[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_kernels, "Quick", Interrupted)
        broken = Tuner(Registry([*whole.entries[:-1], last]), WORK, FEW, MODE, BENCH, Times(), store.append)
        Interrupted.left = after
        with pytest.raises(KeyboardInterrupt):
            broken.run()
        before = store.load()
        assert before == broken.times, "what was measured until then is on disk"
        Interrupted.left = 10**9
        rest = Tuner(Registry([*whole.entries[:-1], last]), WORK, FEW, MODE, BENCH, before, store.append)
        finished = rest.run()
    assert store.load() == finished
    assert {record for record in before if isinstance(record, Timing | Verdict)} <= set(finished)
    complete = tuner(registry(Toy, Quick), []).run()
    assert {record.key[2:3] + record.key[4:] for record in finished if isinstance(record, Timing)} == {
        record.key[2:3] + record.key[4:] for record in complete if isinstance(record, Timing)
    }


def test_only_what_leaves_a_choice_is_measured_when_time_is_short() -> None:
    kept: list[Record] = []
    tuner(registry(Toy, Odd), kept, only_choices=True).run()
    jobs = {record.subject.shape for record in kept if isinstance(record, Timing)}
    assert jobs == {LARGE.shape}, "the smaller has one able kernel"


def test_a_run_keeps_to_its_time_and_the_next_goes_on() -> None:
    """The counts that the scenario asks for come first; each job gets one at least."""
    kernels, mode = registry(Toy, Quick), Mode("late", (1, 8, 64), (), Effort(0.0, 3, 3), 0.0)
    kept: list[Record] = []
    times = tuner(kernels, kept, mode=mode, mix=MANY).run()
    assert {(r.subject.shape, r.tokens) for r in kept if isinstance(r, Timing)} == {
        (job.shape, 64) for job in (SMALL, LARGE)
    }
    for _ in range(2):
        times = tuner(kernels, kept, times, mode=mode, mix=MANY).run()
    assert {(r.subject.shape, r.tokens) for r in kept if isinstance(r, Timing)} == {
        (job.shape, tokens) for job in (SMALL, LARGE) for tokens in (1, 8, 64)
    }


def test_all_is_measured_anew_where_that_is_asked_for() -> None:
    kernels, kept = registry(Toy, Quick), list[Record]()
    times = tuner(kernels, []).run()
    anew = tuner(kernels, kept, times, since=next(MOMENTS)).run()
    old = {record.key: record for record in times if isinstance(record, Timing)}
    new = {record.key: record for record in anew if isinstance(record, Timing)}
    assert new.keys() == old.keys()
    assert all(new[key].when > old[key].when for key in old)
    assert not any(isinstance(record, Verdict) for record in kept)


def test_a_hopeless_kernel_is_not_measured_again_and_again() -> None:
    kernels, mode = registry(Toy, Quick), replace(MODE, effort=Effort(0.0, 3, 3, hopeless=2.0))
    kept: list[Record] = []
    times = tuner(kernels, kept, mode=mode).run()
    assert {r.repeats for r in kept if isinstance(r, Timing)} == {1, 3}
    again: list[Record] = []
    tuner(kernels, again, times, mode=mode).run()
    assert again == []
    tuner(kernels, again, times, mode=MODE).run()
    assert again, "a more patient mode wants more"


def test_progress_reaches_its_end_and_never_goes_back() -> None:
    told: list[tuple[int, int, str]] = []
    tuner(registry(Toy, Quick), [], progress=lambda *step: told.append(step)).run()
    done = [step[0] for step in told]
    assert done == sorted(done)
    assert len({step[1] for step in told}) == 1
    assert told[-1][0] == told[-1][1]


def test_no_kernel_at_all_is_no_reason_to_fail() -> None:
    kept: list[Record] = []
    assert len(tuner(registry(), kept).run()) == 0
    assert kept == []


def test_points_stay_within_the_mode_and_within_memory() -> None:
    decode = Job(
        "mla_decode",
        (("heads", 4), ("latent", 512), ("nope", 32), ("rope", 64), ("v", 32)),
        "bf16", "bfloat16", "cpu",
    )  # fmt: skip
    quick = points(decode, FEW, QUICK, {})
    assert {point.context for point in quick} == {100}
    assert {point.tokens for point in quick} == set(QUICK.ladder) - {512}
    thorough = points(decode, FEW, THOROUGH, {})
    assert {point.context for point in thorough} == {100, 64, 512, 4096}
    assert max(point.tokens for point in thorough if point.context == 4096) < 512
    assert {point.context for point in points(SMALL, FEW, THOROUGH, {})} == {0}


def test_experts_that_fit_nowhere_are_timed_by_fewer() -> None:
    shape = (("experts", 256), ("hidden", 7168), ("inter", 2048), ("shared", 2048))
    work = Workload({}, {"k": 8})
    job = Job("moe_ffn", shape, "fp8_block", "bfloat16", "cpu")
    fixed = timed_sizes(work, job, 2 << 30)
    assert 8 <= fixed["experts"] <= (2 << 30) // (3 * 7168 * 2048)
    assert timed_sizes(work, job, 1)["experts"] == 8, "no fewer than a token goes to"
    assert timed_sizes(work, job, 1 << 40)["experts"] == 256


def test_a_kernel_that_ends_the_process_is_refused_from_then_on() -> None:
    """As an illegal instruction would: whatever was on disk by then is all there is."""
    kept: list[Record] = []

    def killed(records: Iterable[Record]) -> None:
        kept.extend(records)
        last = kept[-1]
        if isinstance(last, Begun) and last.kernel == "quick" and last.open:
            raise SystemExit

    kernels = registry(Toy, Quick)
    with pytest.raises(SystemExit):
        Tuner(kernels, WORK, FEW, MODE, BENCH, Times(), killed).run()
    begun = kept[-1]
    assert isinstance(begun, Begun)
    selection = Tuned(Times(kept), MANY)(WORK, kernels, "float32")
    assert selection.choices[SMALL].kernel.name == "steady"
    assert "the process ended while it was examined" in " ".join(shortfalls(selection))
    RUNS.clear()
    times = tuner(kernels, [], kept, work=Workload({(SMALL,): 2}, {}, bytes=1 << 16)).run()
    assert "quick" not in RUNS
    again = Mode("again", (1, 8, 64), (), Effort(0.0, 3, 3), 1.0, tries_again=True)
    tried = tuner(kernels, [], times, mode=again).run()
    assert not tried.ended_a_process(begun.subject, "quick", begun.code)
    assert Tuned(tried, MANY)(WORK, kernels, "float32").choices[SMALL].kernel.name == "quick"


def test_an_interruption_is_not_held_against_a_kernel() -> None:
    class Interrupted(Toy):
        def run(self, packed: object, *inputs: object) -> object:
            raise KeyboardInterrupt

    kept: list[Record] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Toy, "run", Interrupted.run)
        with pytest.raises(KeyboardInterrupt):
            tuner(registry(Toy), kept).run()
    (subject,) = {record.subject for record in kept if isinstance(record, Begun)}
    assert not Times(kept).ended_a_process(subject, "steady", kernel_code(Toy))
