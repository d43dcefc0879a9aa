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
    ("cli", "__main__", "demo"),
    ("server", "bench", "train"),
    ("engine",),
    ("model",),
    ("kernels",),
    ("ops",),
    ("scenario", "hardware"),
    ("flags",),
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
    "model/config.py",
    "model/locate.py",
    "scenario",
    "server",
    "bench",
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
    assert not re.search(r"\btorch\.load\(|\beval\(|\bexec\(|\bliteral_eval\(", text)
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}: python -O removes asserts"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_is_no_hall(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{name_of(path)} has {lines} lines: which two things is it doing?"


def test_torch_stays_out_of_the_scheduler_and_the_http_process() -> None:
    """Follows imports through the package, as the interpreter would."""

    def reaches_torch(module: str, trail: tuple[str, ...]) -> tuple[str, ...] | None:
        base = SOURCE.joinpath(*module.split(".")[1:])
        path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if not path.exists() or module in trail:
            return None
        for name in imports(path, only_at_import=True):
            if name.split(".")[0] in ("torch", "transformers"):
                return (*trail, module, name)
            if name.startswith("fullbore."):
                for step in (name, name.rpartition(".")[0]):
                    found = reaches_torch(step, (*trail, module))
                    if found:
                        return found
        return None

    for place in TORCH_FREE:
        paths = [SOURCE / place] if place.endswith(".py") else sorted((SOURCE / place).rglob("*.py"))
        assert paths, f"{place} is not there: mend the list"
        for path in paths:
            assert path.exists(), f"{place} is not there: mend the list"
            module = "fullbore." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
            found = reaches_torch(module, ())
            assert not found, " -> ".join(found or ())


def test_every_room_is_on_a_floor() -> None:
    assert {room_of(path) for path in FILES} <= set(FLOOR_OF)
