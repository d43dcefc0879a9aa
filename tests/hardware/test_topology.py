"""Which processors are one core and which node is theirs, and what is chosen of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.hardware import limits
from fullbore.hardware.topology import Cpu, allowed_cpus, core_count, spread


@st.composite
def machines(draw: st.DrawFn) -> list[Cpu]:
    """Nodes of some cores of one or two processors; the second ones are numbered after all first ones."""
    cores = [node for node in range(draw(st.integers(1, 4))) for _ in range(draw(st.integers(1, 4)))]
    first = [Cpu(node, number, number) for number, node in enumerate(cores)]
    second = [Cpu(cpu.node, cpu.core, len(cores) + cpu.core) for cpu in first if draw(st.booleans())]
    return draw(st.permutations(first + second))


@given(machines(), st.integers(1, 40))
def test_cores_come_before_siblings_and_nodes_stay_together(cpus: list[Cpu], count: int) -> None:
    chosen = spread(cpus, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(cpus))
    assert set(chosen) <= set(cpus)
    assert core_count(chosen) == min(count, core_count(cpus))
    nodes = [cpu.node for cpu in chosen]
    assert nodes == sorted(nodes)
    if count <= core_count(cpus):  # a node is begun when those before it are used up
        left = {cpu.node for cpu in cpus if cpu.core not in {each.core for each in chosen}}
        assert max(nodes) <= min(left, default=max(nodes))


def machine(folder: Path, siblings: dict[int, str], nodes: dict[int, int]) -> Path:
    for number, text in siblings.items():
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")
        (folder / f"cpu{number}" / f"node{nodes[number]}").mkdir()
    return folder


def test_the_system_tells_cores_and_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0: 0, 1: 1, 2: 0, 3: 1})
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert allowed_cpus(folder) == (Cpu(0, 0, 0), Cpu(0, 0, 2), Cpu(1, 1, 1), Cpu(1, 1, 3))
    assert [cpu.number for cpu in spread(allowed_cpus(folder), 2)] == [0, 1]
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {2, 3}, raising=False)
    assert core_count(allowed_cpus(folder)) == 2
    assert allowed_cpus(tmp_path / "none") == (Cpu(0, 2, 2), Cpu(0, 3, 3))


@pytest.mark.parametrize(
    ("siblings", "threads"),
    [(["0,4", "1,5", "2,6", "3,7"] * 2, 4), (["0-1", "0-1", "2-3", "2-3"], 2), (["0-1"] * 2, 2), (["0"], 1)],
)
def test_a_thread_computes_for_each_core(
    siblings: list[str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine(tmp_path, dict(enumerate(siblings)), dict.fromkeys(range(len(siblings)), 0))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(len(siblings))), raising=False)
    monkeypatch.setattr(limits, "_CGROUP", tmp_path / "none")
    monkeypatch.setattr(limits, "allowed_cpus", lambda: allowed_cpus(folder))
    assert limits.usable_cores() == threads
