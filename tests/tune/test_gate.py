"""A kernel whose numbers are wrong is refused by name, however fast; one that is right is not."""

import pytest
import torch
from toy_kernels import RUNS, Nan, Odd, Quick, Raises, Toy, Wrong

from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.contract import Job, Operator
from fullbore.ops.operators import OPERATORS
from fullbore.tune import gate as gate_module
from fullbore.tune.gate import TOKENS, Gate, example_trials, own_trials

LINEAR = Job("linear", (("in", 512), ("out", 64)), "fp8_block", "float32", "cpu")


def test_a_fast_wrong_kernel_is_refused_with_the_error_seen() -> None:
    gate = Gate({}, lambda: 7.0)
    verdicts = {each.name: gate.examine(LINEAR, each) for each in (Toy, Wrong, Quick, Nan, Raises, Odd)}
    assert {name for name, verdict in verdicts.items() if verdict.passed} == {"steady", "quick", "odd"}
    wrong = verdicts["wrong"]
    assert wrong.error == pytest.approx(0.01, rel=0.01)
    assert "extreme_scales" in wrong.case
    assert "its error is 1.0e-02, 2.0e-05 is allowed" in wrong.reason
    assert verdicts["nan"].error > 1e299
    assert "RuntimeError: illegal instruction" in verdicts["raises"].reason
    assert "one_token" in verdicts["raises"].reason
    assert {verdict.when for verdict in verdicts.values()} == {7.0}


def test_a_kernel_is_wrong_if_it_is_wrong_once() -> None:
    """Whichever trial it is: the first and the last count as much as any."""
    trials = len([*example_trials(LINEAR), *own_trials(LINEAR, {})])

    class Once(Toy):
        name = "once"
        wrong_at = calls = 0

        def run(self, packed: object, *inputs: torch.Tensor) -> object:
            type(self).calls += 1
            y: torch.Tensor = super().run(packed, *inputs)
            return y + 0.1 if type(self).calls == self.wrong_at else y

    for at in (1, trials // 2, trials, trials + 1):
        Once.wrong_at, Once.calls = at, 0
        assert Gate({}).examine(LINEAR, Once).passed == (at > trials)


def test_what_was_seen_at_the_operators_shapes_counts_for_every_job() -> None:
    """And is tried once, whatever the number of jobs."""
    wider = Job("linear", (("in", 600), ("out", 64)), "fp8_block", "float32", "cpu")
    examination = Gate({})
    for job in (LINEAR, wider):
        RUNS.clear()
        assert examination.examine(job, Toy).passed
        assert not examination.examine(job, Raises).passed
    assert RUNS.count("steady") == len(list(own_trials(wider, {})))
    assert RUNS.count("raises") == 0, "it has failed already"


def test_a_kernel_that_could_not_be_tried_did_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "own_trials", lambda job, sizes: iter([]))
    verdict = Gate({}).examine(LINEAR, Odd)
    assert not verdict.passed
    assert "nothing was tried" in verdict.reason


def test_the_jobs_own_shape_and_ragged_ones_are_tried() -> None:
    names = [trial.name for trial in own_trials(LINEAR, {})]
    for tokens in TOKENS:
        assert any(f"tokens {tokens}, " in f"{name}, " for name in names)
    assert all("in 512" in name for name in names)
    assert any("in 33" in trial.name for trial in example_trials(LINEAR))
    assert {name.split()[1] for name in names} == set(OPERATORS["linear"].cases)


def test_experts_are_tried_with_all_tokens_at_one_and_few_are_drawn() -> None:
    job = Job(
        "moe_ffn", (("experts", 256), ("hidden", 64), ("inter", 32), ("shared", 0)), "bf16", "float32", "cpu"
    )
    own = [trial for trial in own_trials(job, {"k": 6})]
    assert {len(trial.drawn.weights[0]) for trial in own} == {8}
    assert any("one_expert" in trial.name for trial in own)
    assert all(trial.drawn.inputs[1].shape[1] == 6 for trial in own if "one_expert" not in trial.name)


def test_large_matrices_are_drawn_once() -> None:
    job = Job("linear", (("in", 9000), ("out", 8000)), "bf16", "bfloat16", "cpu")
    drawn = list(own_trials(job, {}))
    assert len(drawn) == 1


# Exchanges between ranks have kernels that wait instead.
BY_TORCH = [OPERATORS[entry.operator] for entry in CATALOGUE.entries if entry.name == "torch"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("operator", BY_TORCH, ids=lambda operator: operator.name)
def test_the_torch_kernels_pass(operator: Operator, dtype: str) -> None:
    shape, format = operator.shapes[0], operator.formats[0]
    drawn = operator.draw(shape, operator.cases[0], format, torch.float32, torch.Generator())
    job = Job.of(operator, drawn.weights, dtype, "cpu")
    (torch_kernel,) = (entry for entry in CATALOGUE.candidates(operator.name) if entry.name == "torch")
    verdict = Gate({"rope": 8, "dim": 8}).examine(job, torch_kernel.load())
    assert verdict.passed, verdict.reason
