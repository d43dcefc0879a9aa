"""Which object runs: chosen, overridden, compiled, refused, and never half of one."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from every_kernel import isas

from fullbore.errors import UsageError
from fullbore.hardware.cpu import cpu_flags
from fullbore.kernels.cpu import build, native
from fullbore.kernels.cpu.build import (
    AMX,
    AVX2,
    AVX512,
    AVX512BF16,
    GENERIC,
    ISAS,
    CompileError,
    compile_object,
)
from fullbore.kernels.cpu.linear import CpuLinear
from fullbore.kernels.cpu.native import NativeUnavailable, chosen_isas, load, runnable
from fullbore.ops.contract import Job

HAS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)
X86 = pytest.mark.skipif(build.for_this_machine() == (GENERIC,), reason="needs an x86-64 processor")


@pytest.fixture
def small_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in a moment, no installed objects, and a cache of the test's own."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "small.cpp").write_text(
        '#define API extern "C" __attribute__((visibility("default")))\n'
        "API long long fb_abi() { return FB_ABI; }\n"
        "#if !defined(DENIED)\n#define DENIED 0\n#endif\n"
        "API long long fb_enable() { return DENIED; }\n"
        "API void* fb_pool_new(int, const int*) { return 0; }\n"
    )
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setattr(native, "INSTALLED", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def installed(folder: Path, isa: build.Isa = GENERIC) -> Path:
    return folder / build.object_name(isa)


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.so"))


@X86
def test_the_best_that_the_cpu_can_run_comes_first() -> None:
    assert runnable(frozenset()) == (GENERIC,)
    assert runnable(AVX2.cpu_flags) == (AVX2, GENERIC)
    assert runnable(AVX512.cpu_flags - {"fma"}) == (GENERIC,)
    everything = AMX.cpu_flags | {"more"}
    assert runnable(everything) == tuple(reversed(ISAS))
    assert chosen_isas({}, everything) == runnable(everything)
    assert chosen_isas({"FULLBORE_CPU_ISA": ""}, everything) == runnable(everything)


@X86
def test_the_override_names_one_and_no_other() -> None:
    everything = AMX.cpu_flags
    for isa in ISAS:
        assert chosen_isas({"FULLBORE_CPU_ISA": isa.name}, everything) == (isa,)
    with pytest.raises(UsageError, match=r"FULLBORE_CPU_ISA='avx521'.*did you mean avx512.*generic, avx2"):
        chosen_isas({"FULLBORE_CPU_ISA": "avx521"}, everything)
    with pytest.raises(UsageError, match=r"=avx2 needs avx2, f16c, fma, which this CPU lacks.*run generic"):
        chosen_isas({"FULLBORE_CPU_ISA": "avx2"}, frozenset({"sse2"}))


def test_the_override_reaches_the_kernels() -> None:
    script = "from fullbore.kernels.cpu.native import native; print(native().isa, native().threads > 0)"
    for isa in isas():
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "FULLBORE_CPU_ISA": isa.name},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == [isa.name, "True"]


@HAS_COMPILER
def test_without_an_object_one_is_compiled_once_and_kept(small_sources: Path) -> None:
    first = load((GENERIC,), 3, small_sources)
    assert (first.isa, first.threads, first.passed_over) == ("generic", 3, ())
    (kept,) = cached(small_sources)
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    made = kept.stat()
    load((GENERIC,), 3, small_sources)
    assert [kept] == cached(small_sources)
    assert kept.stat().st_mtime_ns == made.st_mtime_ns


@HAS_COMPILER
def test_other_sources_or_another_compiler_are_another_object(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {build.cache_key(GENERIC), build.cache_key(AVX2)}
    (small_sources / "csrc" / "more.h").write_text("// nothing\n")
    keys.add(build.cache_key(GENERIC))
    monkeypatch.setattr(build, "compiler_version", lambda command: "another 1.0")
    keys.add(build.cache_key(GENERIC))
    assert len(keys) == 4


@HAS_COMPILER
@X86
def test_every_process_looks_for_an_object_under_the_same_name() -> None:
    script = "from fullbore.kernels.cpu import build; print(build.cache_key(build.AVX512BF16))"
    names = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert names == {build.cache_key(AVX512BF16) + "\n"}


@HAS_COMPILER
def test_an_installed_object_is_used_as_it_lies(small_sources: Path) -> None:
    compile_object(GENERIC, installed(small_sources))
    load((GENERIC,), 1, small_sources)
    assert not cached(small_sources)


@HAS_COMPILER
def test_an_object_of_other_sources_is_not_used(small_sources: Path) -> None:
    compile_object(GENERIC, installed(small_sources))
    with (small_sources / "csrc" / "small.cpp").open("a") as source:
        source.write("// changed\n")
    load((GENERIC,), 1, small_sources)
    assert cached(small_sources)


@HAS_COMPILER
@pytest.mark.parametrize("keep", [0, 40, 4000, -1])
def test_a_damaged_object_is_not_loaded(small_sources: Path, keep: int) -> None:
    """Mapping what is not there would end the process."""
    target = installed(small_sources)
    compile_object(GENERIC, target)
    target.write_bytes(target.read_bytes()[:keep])
    load((GENERIC,), 1, small_sources)
    (kept,) = cached(small_sources)
    whole = kept.read_bytes()
    kept.unlink()  # it is mapped: what is cut off of the file itself would be missing from memory
    kept.write_bytes(whole[:keep])
    load((GENERIC,), 1, small_sources)  # compiled again
    assert len(kept.read_bytes()) == len(whole)


def test_without_a_compiler_the_reason_is_told(small_sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compiler", lambda: _no_compiler())
    installed(small_sources).write_bytes(b"not an object")
    with pytest.raises(NativeUnavailable, match=r"generic: .*no ELF header; there is no C\+\+ compiler"):
        load((GENERIC,), 1, small_sources)


def _no_compiler() -> tuple[str, ...]:
    raise CompileError("there is no C++ compiler")


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(CompileError, match="CXX='no-such-compiler -O1' is not on PATH"):
        build.compiler()
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"no C\+\+ compiler"):
        build.compiler()


@HAS_COMPILER
@X86
def test_flags_that_a_compiler_does_not_know_cost_that_instruction_set_only(
    small_sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = build.Isa("future", (), frozenset(), ("-mno-such-instructions",))
    found = load((future, GENERIC), 1, small_sources)
    assert found.isa == "generic"
    (reason,) = found.passed_over
    assert reason.startswith("future: ")
    assert "no-such-instructions" in reason
    assert "generic instead of future (how much slower was not measured): " in caplog.text


@HAS_COMPILER
@X86
def test_what_an_older_instruction_set_costs_is_said_where_it_was_measured(
    small_sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = replace(AVX512BF16, compiler_flags=("-mno-such-instructions",))
    older = replace(AVX2, compiler_flags=())  # so that any x86-64 processor loads it
    assert load((refused, older), 1, small_sources).isa == "avx2"
    times = native.DECODE_TIMES["avx2"] / native.DECODE_TIMES["avx512bf16"]
    assert f"avx2 instead of avx512bf16 (a decode took {times:.1f} times as long" in caplog.text


@HAS_COMPILER
def test_an_object_whose_registers_the_system_denies_is_passed_over(small_sources: Path) -> None:
    denied = build.Isa("denied", (), frozenset(), (f"-DDENIED={errno.EPERM}",))
    found = load((denied, GENERIC), 1, small_sources)
    assert found.isa == "generic"
    assert found.passed_over == (
        "denied: the system denies this process the registers (Operation not permitted); "
        "Linux 5.16 and newer grant them",
    )


@HAS_COMPILER
def test_a_cache_that_cannot_be_written_is_named(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_sources / "file").write_text("")  # a folder cannot be made below it, whoever asks
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_sources / "file"))
    with pytest.raises(NativeUnavailable, match=r"file/fullbore/native/\w+ cannot be written \(Not a dir"):
        load((GENERIC,), 1, small_sources)


@HAS_COMPILER
def test_many_may_compile_the_same_object_at_once(small_sources: Path) -> None:
    target = small_sources / "cache" / "one.so"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(compile_object, GENERIC, target) for _ in range(4)]:
            done.result()
    assert [path.name for path in target.parent.iterdir()] == ["one.so"]


def test_a_kernel_without_native_code_is_unsupported_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = NativeUnavailable("no native kernels (generic: there is no C++ compiler)")
    monkeypatch.setattr(native, "_outcome", lambda: reason)
    job = Job("linear", (("in", 8), ("out", 8)), "bf16", "float32", "cpu")
    assert CpuLinear.unsupported(job) == [str(reason)]


@HAS_COMPILER
@pytest.mark.skipif(AVX512BF16 not in runnable(cpu_flags()), reason="compiles for AVX-512 BF16")
def test_sums_stay_in_registers(tmp_path: Path) -> None:
    """A compiler that keeps them in memory halves the speed and breaks nothing: nothing else would tell."""
    lines = panel_assembly(AVX512BF16, tmp_path)
    places = {line[:-1]: number for number, line in enumerate(lines) if line.startswith(".L")}
    full = 0
    for number, line in enumerate(lines):
        words = line.split()
        if len(words) == 2 and words[0].startswith("j") and places.get(words[1], number) < number:
            loop = lines[places[words[1]] : number]
            if len(loop) < 100 and sum("vdpbf16ps" in each for each in loop) == 24:
                full += 1
                stored = [
                    each for each in loop if "vmov" in each and each.rstrip().endswith(("(%rsp)", "(%rbp)"))
                ]
                # Beside 24 sums and the decoder of FP8 one decoded vector has no register; a sum never waits.
                assert len(stored) <= any("vpunpck" in each for each in loop), stored
    assert full, "the loops of 6 rows were not found"


@HAS_COMPILER
@X86
def test_with_tiles_every_row_of_bfloat16_goes_through_them(tmp_path: Path) -> None:
    """The instructions for pairs round differently: a row's bits would depend on how many share its call."""
    words = [line.split()[0] for line in panel_assembly(AMX, tmp_path) if line.strip()]
    assert words.count("tdpbf16ps") == 4 * 2  # of a panel, in each format
    assert words.count("vdpbf16ps") == 0
    assert words.count("ldtilecfg") == words.count("tilerelease") == 2


@HAS_COMPILER
@pytest.mark.skipif(
    AVX512BF16 not in runnable(cpu_flags()) or AMX in runnable(cpu_flags()),
    reason="loads the AMX object where all but the tiles is there",
)
def test_the_amx_object_of_a_cpu_without_tiles_is_denied_by_the_system() -> None:
    with pytest.raises(NativeUnavailable, match="amx: the system denies this process the registers"):
        load((AMX,), 1)


def panel_assembly(isa: build.Isa, folder: Path) -> list[str]:
    """What the compiler makes of the innermost loops."""
    assembly = folder / "panel.s"
    command = [*build.compiler(), *build.FLAGS, *isa.compiler_flags, "-S", "-o", str(assembly)]
    subprocess.run([*command, str(build.SOURCES / "panel.cpp")], check=True)
    return assembly.read_text().splitlines()
