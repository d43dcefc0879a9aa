"""A real browser without a window that opens a file, and what it said and asked for meanwhile."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Nothing that a browser asks for on its own account; what is left is the page's doing.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-client-side-phishing-detection",
    "--no-pings",
    "--disable-dev-shm-usage",
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,Translate,MediaRouter",
)
# Where it calls home all the same. A page cannot hide there: its policy would speak up in the console.
HOME = re.compile(r"[./](google|googleapis|gstatic|gvt1)\.com[:/]")
CONSOLE = re.compile(r":CONSOLE[:(].*")


@dataclass(frozen=True)
class Opened:
    """The document once its scripts ran, the console's lines, and the first line of each request
    that is not the browser's own."""

    dom: str
    console: tuple[str, ...]
    requests: tuple[str, ...]

    @property
    def drawn(self) -> int:
        """Plots on the page; -1 where its script did not come to its end."""
        found = re.search(r'data-drawn="(\d+)"', self.dom)
        return int(found[1]) if found else -1


def open_page(path: Path, profile: Path, *flags: str) -> Opened:
    """Raises subprocess errors when the browser fails. ``profile``: a folder that is not there yet."""
    assert CHROMIUM
    with _proxy() as (port, requests):
        done = subprocess.run(
            [
                CHROMIUM,
                *QUIET,
                *flags,
                f"--user-data-dir={profile}",
                f"--proxy-server=http://127.0.0.1:{port}",
                "--proxy-bypass-list=<-loopback>",
                "--enable-logging=stderr",
                "--v=0",
                "--dump-dom",
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return Opened(done.stdout, tuple(CONSOLE.findall(done.stderr)), tuple(filter(_not_home, requests)))


def _not_home(request: str) -> bool:
    return not HOME.search(request)


@contextmanager
def _proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that notes what it is asked for and serves nothing."""
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed: the browser is gone
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        requests.append(connection.recv(4096).split(b"\r\n")[0].decode("latin-1"))
                    except OSError:
                        requests.append("a connection without a request")

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield server.getsockname()[1], requests
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
