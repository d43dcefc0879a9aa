"""The ``fullbore`` command: one verb a job. A verb's module is imported only when it is asked for."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from fullbore import __version__, flags
from fullbore.errors import FullboreError, UsageError, did_you_mean


@dataclass(frozen=True)
class Verb:
    """Where a verb lives, what it does, and the optional install (``fullbore[extra]``) it may need."""

    module: str
    help: str
    extra: str = ""


class VerbModule(Protocol):
    """What every verb's module offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


VERBS: Mapping[str, Verb] = {
    "serve": Verb("fullbore.server.command", "serve a model over an OpenAI-compatible API"),
    "bench": Verb("fullbore.bench.command", "measure any OpenAI-compatible server under a scenario"),
    "bench compare": Verb("fullbore.bench.compare_command", "put benchmark runs side by side"),
    "bench report": Verb("fullbore.bench.report_command", "show benchmark results that are in files"),
    "bench audit": Verb(
        "fullbore.bench.audit_command", "say what a published figure implies, and if it can be"
    ),
    "bench mock": Verb(
        "fullbore.bench.mock_command", "serve answers of exactly known timing, without a model"
    ),
    "tune": Verb("fullbore.tune.command", "measure this machine's kernels and choose the best for a model"),
    "plan": Verb("fullbore.plan.command", "say what a server will carry, how to run it, and what limits it"),
    "plan point": Verb("fullbore.plan.point_command", "predict what a server will do at one concurrency"),
    "plan simulate": Verb(
        "fullbore.plan.simulate_command", "run a scenario in virtual time, with a report like a bench's"
    ),
    "inspect": Verb("fullbore.model.inspect_command", "show what a checkpoint holds, and check it"),
    "inspect why": Verb("fullbore.tune.why_command", "show why a kernel was chosen for an operator"),
    "inspect machine": Verb(
        "fullbore.tune.machine_command", "measure what this machine can do, for the planner"
    ),
    "inspect accuracy": Verb(
        "fullbore.train.accuracy_command", "compare converted weights with the stored ones on a text"
    ),
    "make-checkpoint": Verb("fullbore.model.make_checkpoint", "write a random-weight checkpoint of any size"),
    "train": Verb("fullbore.train.command", "train the demo model", extra="train"),
}

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# What is wrong with a path that the user named, or with the disk it is on; any other failure may be a bug.
NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv, os.environ)
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be answered
        return code
    except FullboreError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()  # `fullbore ... | head` is no failure; the interpreter flushes once more at exit
        return BROKEN_PIPE
    except OSError as error:
        if error.errno in NO_ACCESS and error.filename:
            why = f"{error.filename} cannot be used: {error.strerror}"
            return _fail(f"{why} (check the path and its rights, or give another)", 1)
        if error.errno not in NO_SPACE:
            raise
        where = f" writing {error.filename}" if error.filename else ""
        _discard_output()
        return _fail(f"the disk is full{where} (free some space, or write elsewhere)", 1)


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else UsageError.exit_code
    if argv[0] in ("-V", "--version"):
        print(f"fullbore {__version__}")
        return 0
    # A verb of two words goes before a name: a folder called why is written ./why, as one called demo.
    words = 2 if " ".join(argv[:2]) in VERBS else 1
    name = " ".join(argv[:words])
    if name not in VERBS:
        what = "flag" if name.startswith("-") else "verb"
        known = ["--help", "--version"] if what == "flag" else list(VERBS)
        raise UsageError(
            f"unknown {what} {name}{did_you_mean(name, known)}; expected one of {', '.join(known)}"
        )
    verb = VERBS[name]
    try:
        module = _load(verb)
        parser = _parser(name, module)
        try:
            arguments = flags.parse(parser, argv[words:], environ)
        except SystemExit as done:  # --help has printed
            return int(done.code or 0)
        _refuse_unknown_variables(parser, environ)
        return module.run(arguments)
    except ModuleNotFoundError as error:
        if not verb.extra or not error.name or error.name.startswith("fullbore"):
            raise
        raise FullboreError(
            f"'fullbore {name}' needs the Python package {error.name}, which is not installed "
            f"(pip install 'fullbore[{verb.extra}]')"
        ) from error


def _load(verb: Verb) -> VerbModule:
    return cast(VerbModule, importlib.import_module(verb.module))


def _parser(name: str, module: VerbModule) -> flags.Parser:
    parser = flags.Parser(
        prog=f"fullbore {name}",
        description=VERBS[name].help[0].upper() + VERBS[name].help[1:] + ".",
        epilog="Every flag --x-y can also be set as the environment variable FULLBORE_X_Y; the flag wins.",
    )
    module.configure(parser)
    return parser


def _refuse_unknown_variables(parser: flags.Parser, environ: Mapping[str, str]) -> None:
    """A variable may belong to another verb: only then are the other verbs loaded."""
    known = flags.variables(parser) | flags.VARIABLES
    if all(name in known for name in environ if name.startswith(flags.PREFIX)):
        return
    for name, verb in VERBS.items():
        try:
            known |= flags.variables(_parser(name, _load(verb)))
        except ModuleNotFoundError as error:
            if not verb.extra or (error.name or "").startswith("fullbore"):
                raise
            return  # without that verb's packages nobody can say which variables are its own
    flags.refuse_unknown_variables(environ, known)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [
        "usage: fullbore VERB [flags]     (fullbore VERB --help shows a verb's flags)",
        "",
        "Full-size DeepSeek-V3/R1 models at full throughput from one server.",
        "",
        "verbs:",
        *(f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items()),
        "",
        "flags:",
        f"  {'--version':{width}}  print the version",
        f"  {'--help':{width}}  print this",
        "",
        "Every flag --x-y can also be set as the environment variable FULLBORE_X_Y; the flag wins.",
        "Try: fullbore serve demo",
    ]
    return "\n".join(lines)


def _fail(message: str, code: int) -> int:
    try:
        print(f"fullbore: {'' if code == INTERRUPTED else 'error: '}{message}", file=sys.stderr)
    except OSError:
        return code  # nobody can read it, the code must do
    return code


def _discard_output() -> None:
    """What is still buffered for stdout goes nowhere, so that the interpreter's last flush cannot fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # stdout is not a file (a test captures it)


if __name__ == "__main__":
    sys.exit(main())
