"""Compiles the CPU kernels while the package is built: one shared object for each instruction set.

Nothing here fails an installation: what is not compiled now is compiled at first use, or torch does the work.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path("src/fullbore/kernels/cpu")


def _build() -> ModuleType:
    """``fullbore.kernels.cpu.build``, by its path: the package itself cannot be imported yet."""
    spec = importlib.util.spec_from_file_location("fullbore_build", HERE / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildWithKernels(build_py):
    """Writes the objects beside the package's modules: in the wheel, or for ``pip install -e`` in ``src``."""

    def run(self) -> None:
        super().run()
        build = _build()
        folder = HERE if self.editable_mode else Path(self.build_lib) / HERE.relative_to("src")

        def make(isa: object) -> str:
            try:
                build.compile_object(isa, folder / build.object_name(isa))
            except build.CompileError as error:
                return f"{isa.name}: not compiled, {error}"
            return f"{isa.name}: compiled"

        for isa in build.for_this_machine():
            self.announce(f"cpu kernels for {make(isa)}", level=4)


class WheelOfAnyPython(bdist_wheel):
    """The objects use neither Python's nor torch's ABI: any Python, this platform."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfAnyPython})
