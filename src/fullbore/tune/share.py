"""Tables of times as files to pass on: to twins of this machine, and between runs. No torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from fullbore.errors import UsageError
from fullbore.hardware.fingerprint import differences
from fullbore.ops.store import Store, fingerprint_of, read, write
from fullbore.ops.times import Times

T = TypeVar("T")


def export(store: Store, path: Path) -> None:
    """This machine's table, whole."""
    times = store.load()
    if not len(times):
        raise UsageError(f"nothing was measured on this machine yet; run fullbore tune MODEL --export {path}")
    _at(path, lambda: write(path, times, store.fingerprint))
    print(f"wrote {len(times)} records to {path}")


def take(path: Path, store: Store) -> None:
    """The records of ``path`` into this machine's table. UsageError unless it was measured on a twin."""
    theirs, ours = _at(path, lambda: read(path, store.fingerprint)), store.load()
    news = [record for record in ours.merged(theirs) if record not in set(ours)]
    store.append(news)
    if store.trouble:
        raise UsageError(store.trouble)
    print(f"took {len(news)} of the {len(theirs)} records in {path}")


def merge(paths: Sequence[Path], target: Path) -> None:
    """One table of several that were measured on machines of one kind, whatever this one is."""
    first: Mapping[str, str] = _at(paths[0], lambda: fingerprint_of(paths[0]))
    times = Times()
    for path in paths:
        theirs = _at(path, lambda path=path: fingerprint_of(path))  # type: ignore[misc]
        if unlike := differences(first, theirs):
            raise UsageError(
                f"{path} and {paths[0]} were measured on unlike machines ({', '.join(unlike)}); "
                "their times do not compare"
            )
        times = times.merged(_at(path, lambda path=path: read(path)))  # type: ignore[misc]
    _at(target, lambda: write(target, times, first))
    print(f"wrote {len(times)} records to {target}")


def _at(path: Path, work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
