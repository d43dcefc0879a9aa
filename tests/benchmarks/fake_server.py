"""The scripted server as a peer's process that can misbehave: die, never get ready, ignore being ended."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from scripted_server import Script, _application


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gap", type=float, default=0.001)
    parser.add_argument("--short-by", type=int, default=0)
    parser.add_argument("--killed-once", type=Path, help="killed at a completion, unless this file exists")
    parser.add_argument("--pids", type=Path, help="written there: its own process id, and its child's")
    parser.add_argument(
        "--stubborn", action="store_true", help="it and a child of another group ignore SIGTERM"
    )
    args = parser.parse_args()
    print("fake server starting", flush=True)
    pids = [os.getpid()]
    if args.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        pids.append(child.pid)
    if args.pids:
        args.pids.write_text(" ".join(map(str, pids)))
    app = _application(Script(gap_s=args.gap, short_by=args.short_by))

    @web.middleware
    async def killed(request: web.Request, handler: Handler) -> web.StreamResponse:
        if args.killed_once and request.path == "/v1/completions" and not args.killed_once.exists():
            args.killed_once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return await handler(request)

    app.middlewares.append(killed)
    web.run_app(app, host="127.0.0.1", port=args.port, handle_signals=not args.stubborn, print=None)


if __name__ == "__main__":
    main()
