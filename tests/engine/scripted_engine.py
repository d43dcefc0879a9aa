"""An engine process with the real wire, loop and scheduler and no model.

What it does is in ``options.model``, in words such as ``step_s=0.01``, ``protocol=99``, ``dies``, ``fails``,
``starts=FILE`` (counts its starts there) and ``good_starts=1`` (the later ones fail).
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
from fake_runner import VOCAB, FakeRunner

from fullbore.engine.loop import Loop
from fullbore.engine.messages import Failed, Hello, Progress, Ready
from fullbore.engine.process import Launch, _die_with, greet
from fullbore.engine.scheduler import Scheduler
from fullbore.engine.wire import EngineWire


def main() -> None:
    launch = msgspec.json.decode(sys.argv[1], type=Launch)
    options = launch.options
    words = dict(word.partition("=")[::2] for word in options.model.split())
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(launch.parent)
    if "starts" in words:
        counter = Path(words["starts"])
        starts = int(counter.read_text()) + 1 if counter.exists() else 1
        counter.write_text(str(starts))
        if starts > int(words.get("good_starts", "1000000")):
            os._exit(3)
    wire = EngineWire(Path(launch.run_dir))
    if "protocol" in words:
        wire.send(Hello(int(words["protocol"]), "9.9"))
        time.sleep(60)
    if "dies" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    greet(wire, 10.0)
    if "fails" in words:
        wire.send(Failed("config.json: field hidden_size is -1"))
        wire.close()
        sys.exit(1)
    for done in range(0, 101, 25):
        wire.send(Progress(done, 100))
    policy = Scheduler(
        6000, 4, options.max_num_seqs, options.max_num_batched_tokens, options.max_queued, 20_000, ()
    )
    runner = FakeRunner(float(words.get("step_s", "0.002")))
    wire.send(Ready(VOCAB, 20_000, 4, 6000, [], "scripted", "bfloat16", 64))
    loop = Loop(policy, runner, wire, VOCAB)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: loop.drain())
    loop.run()
    wire.close()


if __name__ == "__main__":
    main()
