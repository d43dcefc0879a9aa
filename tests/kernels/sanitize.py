"""``make sanitize``: the C++ under the address, undefined-behaviour and thread sanitizers, on every CPU
here, or on those that arguments name (``avx2 generic``).

The driver beside this file is linked with the sources themselves: no Python, no torch, whose own findings
would have to be excused.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from every_kernel import EMULATED_AMX

from fullbore.hardware.cpu import cpu_flags
from fullbore.kernels.cpu.build import FLAGS, SOURCES, compiler, source_files
from fullbore.kernels.cpu.native import runnable

SANITIZERS = ("address,undefined", "thread")


def main(names: Sequence[str]) -> int:
    failed = []
    isas = {isa.name: isa for isa in (*runnable(cpu_flags()), EMULATED_AMX)}
    if unknown := set(names) - set(isas):
        print(f"not here: {', '.join(sorted(unknown))}; expected of {', '.join(isas)}", file=sys.stderr)
        return 2
    sources = [str(path) for path in source_files() if path.suffix == ".cpp"]
    driver = str(Path(__file__).with_name("drive.cpp"))
    for isa in (isas[name] for name in names or isas):
        for sanitizer in SANITIZERS:
            with tempfile.TemporaryDirectory() as folder:
                program = str(Path(folder) / "drive")
                flags = (*FLAGS, "-O1", "-g", *isa.compiler_flags, "-DFB_ABI=0", f"-I{SOURCES}")
                checks = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
                subprocess.run([*compiler(), *flags, *checks, driver, *sources, "-o", program], check=True)
                code = subprocess.run([program], check=False).returncode
            print(f"{isa.name}, {sanitizer}: {'clean' if code == 0 else f'exit code {code}'}", flush=True)
            failed += [isa.name] if code else []
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
