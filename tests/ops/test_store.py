"""The file of times under every fault: cut off, damaged, foreign, no space, no right, two writers."""

import multiprocessing
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import JOB, Record, tables, timing

from fullbore.errors import FullboreError, UsageError
from fullbore.ops.store import DamagedTable, Store, default_folder, fingerprint_of, read, write
from fullbore.ops.times import Times

HERE = {"cpu": "this one", "threads": "2"}
THERE = {"cpu": "another", "threads": "2"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(HERE, tmp_path / "cache" / "fullbore")


@given(st.lists(tables, max_size=4))
def test_what_was_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, runs: list[list[Record]]) -> None:
    store = Store(HERE, tmp_path_factory.mktemp("cache"))
    for records in runs:
        store.append(records)
    assert store.load() == Times(record for records in runs for record in records)
    assert store.trouble == ""


@given(tables)
def test_a_table_written_whole_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("export") / "times.jsonl"
    write(path, Times(records), HERE)
    assert read(path, HERE) == Times(records)
    assert fingerprint_of(path) == HERE
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_nothing_was_measured(store: Store) -> None:
    assert len(store.load()) == 0
    assert (store.trouble, store.strangers()) == ("", [])
    assert not store.folder.exists(), "a look must leave nothing behind"


@given(st.data())
def test_a_file_cut_off_anywhere_gives_the_whole_lines_and_can_be_written_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As a kill or a power failure leaves it."""
    store = Store(HERE, tmp_path_factory.mktemp("cache"))
    kept = [timing(tokens=tokens) for tokens in (1, 2, 4)]
    store.append(kept)
    whole = store.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    store.path.write_bytes(whole[:cut])
    survivors = max(0, whole[:cut].count(b"\n") - 1)
    assert store.load() == Times(kept[:survivors])
    store.append([timing(tokens=8)])
    assert store.load() == Times([*kept[:survivors], timing(tokens=8)])
    assert store.trouble == ""


@pytest.mark.parametrize("line", [b"hello", b"{}", b'{"type": "timing"}', b"\xff\xfe", b"", b"[1]"])
def test_a_damaged_file_is_kept_aside_and_told(
    store: Store, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.append([timing(tokens=1)])
    header, record = store.path.read_bytes().splitlines()
    store.path.write_bytes(b"\n".join([header, line, record, b""]))
    damaged = store.path.read_bytes()
    assert len(store.load()) == 0
    assert "line 2 is no record" in store.trouble
    assert store.trouble in caplog.text
    aside = store.path.with_name(store.path.name + ".damaged-1")
    assert aside.read_bytes() == damaged
    store.append([timing(tokens=2)])
    assert store.load() == Times([timing(tokens=2)])
    store.path.write_bytes(b"no table\n")
    assert len(store.load()) == 0
    assert aside.read_bytes() == damaged, "what was kept aside before stays"
    assert store.path.with_name(store.path.name + ".damaged-2").exists()


def test_a_table_of_another_version_or_machine_is_never_trusted(store: Store, tmp_path: Path) -> None:
    store.append([timing()])
    text = store.path.read_text()
    store.path.write_text(text.replace('"version":1', '"version":2'))
    with pytest.raises(DamagedTable, match="version 2"):
        read(store.path)
    assert len(store.load()) == 0
    other = Store(THERE, store.folder)
    assert other.path != store.path
    other.append([timing()])
    assert len(store.load()) == 0
    assert len(store.strangers()) == 1
    assert "cpu another there, this one here" in store.strangers()[0]
    with pytest.raises(UsageError, match="cpu another there, this one here"):
        read(other.path, HERE)
    other.path.rename(store.path)  # someone copied it by hand
    assert len(store.load()) == 0
    assert "another" in store.trouble


def unable(folder: Path) -> bool:
    """Permissions do not bind the superuser."""
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except OSError:
        return True
    (folder / "probe").unlink()
    return False


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    if not unable(home):  # a file where the folder should be refuses the superuser as well
        home.chmod(0o700)
        (home / "fullbore").write_text("")
    store = Store(HERE, home / "fullbore")
    store.append([timing()])
    store.append([timing(tokens=2)])
    assert "measured again next time" in store.trouble
    assert caplog.text.count("measured again") == 1, "told once"
    assert len(store.load()) == 0
    home.chmod(0o700)


def test_a_full_disk_leaves_a_whole_file(store: Store) -> None:
    """A limit on the size of files stands for it: a write is cut short in just the same way."""
    store.append([timing(tokens=1)])
    size = store.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        store.append([timing(tokens=2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "No space left" in store.trouble or "File too large" in store.trouble
    assert store.path.stat().st_size == size
    assert store.load() == Times([timing(tokens=1)])
    store.append([timing(tokens=4)])
    assert {record.tokens for record in store.load().ladder(JOB, "fast", "new")} == {1, 4}


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.jsonl"
    write(path, [timing(tokens=1)], HERE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, [timing(tokens=2)], HERE)
    assert read(path) == Times([timing(tokens=1)])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def keep_many(folder: Path, kernel: str, start: "multiprocessing.synchronize.Barrier") -> None:
    store = Store(HERE, folder)
    start.wait()
    for tokens in range(1, 101):
        store.append([timing(kernel, tokens)])


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    writers = [context.Process(target=keep_many, args=(tmp_path, name, start)) for name in ("fast", "slow")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = Store(HERE, tmp_path)
    assert store.load() == Times(timing(name, n) for name in ("fast", "slow") for n in range(1, 101))
    assert store.path.read_text().count('"type":"table"') == 1


def test_a_reader_beside_the_first_write_sees_an_empty_table(store: Store) -> None:
    store.folder.mkdir(parents=True)
    store.path.touch()
    assert len(store.load()) == 0
    assert store.path.exists(), "nothing is moved from under the one who writes it"


def test_where_tables_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/fullbore")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/fullbore")


def test_errors_are_for_people(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00\x01\n")
    with pytest.raises(FullboreError, match="x is no table of times"):
        read(tmp_path / "x")
