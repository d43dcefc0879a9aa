"""What a load's parent process and its workers tell each other: frames of msgpack on two pipes."""

import asyncio
from array import array
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from fullbore.bench.client import Settings, Target
from fullbore.bench.load import Live
from fullbore.errors import IntegrityError
from fullbore.scenario.metrics import Record, Spread
from fullbore.scenario.prompt import Material, RandomTokens, RandomWords, Session
from fullbore.scenario.text import TextFile

LENGTH_BYTES = 4  # of a frame, in front of it
MATERIALS: dict[str, type[Material]] = {kind.__name__: kind for kind in (RandomTokens, RandomWords, TextFile)}


class Job(msgspec.Struct, frozen=True, tag=True):
    """The first message to a worker. ``concurrency`` and the times as for ``drive``."""

    settings: Settings
    target: Target
    material: tuple[str, Any]
    concurrency: int | None
    ramp_s: float
    seconds: float


class Begin(msgspec.Struct, frozen=True, tag=True):
    """To a worker, once all of them are ready: the time at which the load begins."""

    begin_s: float


class Next(msgspec.Struct, frozen=True, tag=True):
    """To a worker: a session of its share."""

    session: Session


class NoMore(msgspec.Struct, frozen=True, tag=True):
    """To a worker: that was its last session."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker, which waits for the beginning."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """From a worker, a few times a second."""

    live: Live


class Ended(msgspec.Struct, frozen=True, tag=True):
    """From a worker: a request's record, its chunks' times as 8 bytes each."""

    record: Record
    chunks_s: bytes

    @classmethod
    def of(cls, record: Record) -> "Ended":
        return cls(replace(record, chunks_s=()), array("d", record.chunks_s).tobytes())

    def whole(self) -> Record:
        return replace(self.record, chunks_s=array("d", self.chunks_s))


class Done(msgspec.Struct, frozen=True, tag=True):
    """A worker's last message: the rest of its load."""

    live: Live
    lag_ms: Spread | None
    ended_early: str
    failed: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Instead of that: it could not do its part, for a reason that the user can mend."""

    reason: str


ToWorker = Job | Begin | Next | NoMore
FromWorker = Ready | Progress | Ended | Done | Refused
Message = TypeVar("Message")

to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


async def receive(
    reader: asyncio.StreamReader, decoder: "msgspec.msgpack.Decoder[Message]"
) -> Message | None:
    """The next message; None where the other side is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        return decoder.decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def described(material: Material) -> tuple[str, Any]:
    """A material as a worker is told of it. Raises IntegrityError for one that it would not know."""
    kind = type(material).__name__
    if MATERIALS.get(kind) is not type(material):
        raise IntegrityError(f"prompts of {kind} cannot be made by several processes; add it to MATERIALS")
    return kind, msgspec.to_builtins(material)


def material_of(description: tuple[str, Any]) -> Material:
    kind, fields = description
    return msgspec.convert(fields, MATERIALS[kind])
