"""The house keeps its shape: imports point down, rooms stay rooms, and nothing unsafe is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fullbore"
FILES = sorted(SOURCE.rglob("*.py"))

# From the top of the house to the ground. Rooms that share a floor do not know each other.
FLOORS = (
    ("__main__",),
    ("cli", "demo"),
    ("server", "bench", "tune", "plan", "train"),
    ("engine",),
    ("steptime",),
    ("model",),
    ("kernels",),
    ("ops",),
    ("results",),
    ("scenario", "hardware", "parallel"),
    ("flags", "screen", "sheet"),
    ("errors", "__init__"),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
UNSAFE = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}

# Where torch must not be: the policy that serves is the policy that is simulated, and the process that
# speaks HTTP starts fast and stays small.
TORCH_FREE = (
    "engine/request.py",
    "engine/pages.py",
    "engine/prefix.py",
    "engine/scheduler.py",
    "engine/step.py",
    "engine/messages.py",
    "engine/options.py",
    "engine/wire.py",
    "engine/client.py",
    "engine/loop.py",
    "engine/sizing.py",
    "engine/supervised.py",
    "model/config.py",
    "model/locate.py",
    "model/share.py",
    "engine/emulation.py",
    "ops/times.py",
    "ops/store.py",
    "ops/setting.py",
    "ops/sources.py",
    "results",
    "scenario",
    "parallel",
    "sheet",
    "steptime",
    "server",
    "bench",
    "plan",
    "cli.py",
    "demo.py",
)


def imports(path: Path, only_at_import: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; ``only_at_import`` leaves out those inside functions."""
    tree = ast.parse(path.read_text())
    nodes = list(_module_level(tree)) if only_at_import else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path}: relative import; write fullbore.… so that a reader can search")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _module_level(child)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "fullbore":
            continue
        there = parts[1] if parts[1] in FLOOR_OF else "__init__"
        if there != here:
            message = f"{name_of(path)} imports {name}: {here} may not know {there}"
            assert FLOOR_OF[here] < FLOOR_OF[there], message


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_unsafe_is_imported(path: Path) -> None:
    assert not UNSAFE & {name.split(".")[0] for name in imports(path)}
    text = path.read_text()
    assert not re.search(r"\btorch\.load\(|(?<!\.)\b(eval|exec)\(|\bliteral_eval\(", text)
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}: python -O removes asserts"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_is_no_hall(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{name_of(path)} has {lines} lines: which two things is it doing?"


def modules_of(name: str) -> Iterator[str]:
    """The package's own modules that importing ``name`` runs: its parents, itself, or its room."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        if path_of(".".join(parts[:end])) is not None:
            yield ".".join(parts[:end])


def path_of(module: str) -> Path | None:
    base = SOURCE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def test_torch_stays_out_of_the_scheduler_and_the_http_process() -> None:
    """Follows imports through the package, as the interpreter would."""
    needs: dict[str, set[str]] = {}
    heavy: set[str] = set()
    for path in FILES:
        module = ".".join(("fullbore", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        names = set(imports(path, only_at_import=True))
        needs[module] = {there for name in names if name.startswith("fullbore") for there in modules_of(name)}
        if any(name.split(".")[0] in ("torch", "transformers") for name in names):
            heavy.add(module)

    for place in TORCH_FREE:
        paths = [SOURCE / place] if place.endswith(".py") else sorted((SOURCE / place).rglob("*.py"))
        assert all(path.exists() for path in paths or [SOURCE / place]), f"{place}: mend the list"
        start = {".".join(("fullbore", *p.relative_to(SOURCE).with_suffix("").parts)) for p in paths}
        seen, front = set(start), {module.removesuffix(".__init__") for module in start}
        while front:
            seen |= front
            front = {there for module in front for there in needs[module]} - seen
        assert not seen & heavy, f"{place} leads to {sorted(seen & heavy)}"


def test_triton_stays_with_the_kernels_that_need_it() -> None:
    """Nor does anyone import those: they are registered by path."""
    home = SOURCE / "kernels" / "triton"
    for path in FILES:
        if home in path.parents and path != home / "__init__.py":
            continue
        for name in imports(path):
            assert name.split(".")[0] != "triton", f"{name_of(path)} imports {name}"
            allowed = name == "fullbore.kernels.triton.KERNELS" or not name.startswith(
                "fullbore.kernels.triton."
            )
            assert allowed, f"{name_of(path)} imports {name}"


def test_every_room_is_on_a_floor() -> None:
    assert {room_of(path) for path in FILES} <= set(FLOOR_OF)
