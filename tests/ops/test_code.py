"""Any change of a kernel's code, its helpers, its operator or its library makes another kernel of it."""

from pathlib import Path

import pytest

from fullbore.kernels.catalogue import CATALOGUE
from fullbore.ops.code import codes, kernel_code
from fullbore.ops.operators import OPERATORS
from fullbore.ops.sources import file_hash, folder_hash, source_code


def test_every_change_of_a_source_changes_a_folders_hash(tmp_path: Path) -> None:
    """And nothing else does: not the time, the cache of the interpreter, or a build's output."""

    def now() -> str:
        folder_hash.cache_clear()
        return folder_hash(tmp_path)

    seen = [now()]
    for change in (
        lambda: (tmp_path / "kernel.py").write_text("a"),
        lambda: (tmp_path / "kernel.py").write_text("b"),
        lambda: (tmp_path / "csrc").mkdir() or (tmp_path / "csrc" / "kernel.cpp").write_text("b"),
        lambda: (tmp_path / "kernel.py").rename(tmp_path / "core.py"),
        lambda: (tmp_path / "csrc" / "kernel.cpp").unlink(),
    ):
        change()
        seen.append(now())
    assert len(set(seen)) == len(seen)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "kernel.pyc").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    assert now() == seen[-1]
    folder_hash.cache_clear()


def test_a_library_that_was_built_anew_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = CATALOGUE.on("cpu").candidates("linear")[-1].load()
    library = tmp_path / "kernels.so"
    seen = {kernel_code(kernel)}
    monkeypatch.setattr(kernel, "binary", classmethod(lambda cls: str(library)))
    for build in (b"one", b"two"):
        library.write_bytes(build)
        file_hash.cache_clear()
        seen.add(kernel_code(kernel))
    assert len(seen) == 3
    file_hash.cache_clear()


def test_every_kernel_that_can_be_imported_has_code() -> None:
    known = codes(CATALOGUE.on("cpu"))
    assert {operator for operator, _ in known} == set(OPERATORS)
    assert known == codes(CATALOGUE.on("cpu"))
    assert source_code() == source_code() != ""
