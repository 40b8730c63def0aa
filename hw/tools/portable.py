"""Portable Verilog of a device, with constraints and scripts for the tools of FPGA vendors."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.boards.board_file import SHIPPED, SUFFIX, Board, memory_bits
from hw.boards.configs import config_by_name, load_board
from hw.boards.pll import MHZ, cyclone_v_pll, xilinx_pll
from hw.boards.portable import PortableTop
from hw.protocol import spec_hash
from hw.spec import SpecError
from hw.tools.netlist import BuildError
from hw.tools.verilog import run_yosys, to_rtlil, verilog_of

MODULE = "spikefold"
"""Name of the top module of the portable Verilog; its ports are those of
:class:`hw.boards.portable.PortableTop`."""

_PASSES = """
proc -nomux -norom
opt_expr
memory_collect
"""
"""Yosys passes that turn the design into Verilog for vendors' tools. Memories become arrays, and
multiplications by powers of two become shifts, so that no multiplication is left."""

_FAMILIES = {
    "5C": "Cyclone V",
    "5A": "Arria V",
    "EP4CE": "Cyclone IV E",
    "EP4CGX": "Cyclone IV GX",
    "10CL": "Cyclone 10 LP",
    "10M": "MAX 10",
}
"""Family of an Intel device, by the first characters of the device's name."""


class UnfitError(BuildError):
    """Raised if a design needs more of a resource than the device has; the message names the
    resource."""


def board_for(name: str, file: Path | None = None) -> Board:
    """Return the board for which files are to be written.

    Parameters
    ----------
    name : name of a configuration, or the path of a board file
        (:func:`hw.boards.configs.config_by_name`).
    file : board file; its table ``[core]`` changes the configuration ``name``. If ``name`` is the
        board's own name, the file's configuration is used as it is.

    Raises
    ------
    SpecError
        The name is unknown, or a board file cannot be used.
    """
    if file is None:
        if name.endswith(SUFFIX) or name in SHIPPED:
            return load_board(name)
        config = config_by_name(name)
        return Board(config=config, clock_hz=config.clk_hz)
    if file.suffix != SUFFIX:
        raise SpecError(f"--board {file}: the name of a board file ends with {SUFFIX}")
    board = load_board(str(file))
    if name in (board.name, str(file)):
        return board
    return load_board(str(file), config_by_name(name))


def files_for(board: Board) -> dict[str, str]:
    """Return the contents of all files of a board, by file name.

    These are the portable Verilog and, if the board's tool is known, a wrapper with the board's
    clock and pins, and the tool's constraints and scripts.

    Raises
    ------
    SpecError
        The device's PLL cannot make the clock.
    hw.tools.verilog.ToolError
        Yosys failed.
    """
    wrapper = _wrapper(board) if board.tool else None  # first, because it refuses some boards
    files = {f"{board.name}.v": _header(board) + portable_verilog(board)}
    if wrapper is not None:
        files[f"{board.name}_board.v"] = wrapper
        files |= {"vivado": _vivado, "quartus": _quartus}[board.tool or ""](board)
    return files


def portable_verilog(board: Board) -> str:
    """Return the Verilog of the device, whose top module is :data:`MODULE`."""
    return verilog_of(to_rtlil(PortableTop(board.config), name=MODULE), _PASSES)


def write(board: Board, folder: Path) -> list[Path]:
    """Write all files of a board into a folder, and return their paths.

    If one file cannot be generated, none is written. Each file is written atomically.

    Raises
    ------
    SpecError, hw.tools.verilog.ToolError, OSError
        See :func:`files_for`; or the folder cannot be written.
    """
    files = files_for(board)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files.items():
        path = folder / name
        part = path.with_name(f"{name}.part")
        part.write_text(content)
        part.replace(path)
        paths.append(path)
    return paths


def _header(board: Board) -> str:
    """Return the comment at the head of the portable Verilog, which explains the file."""
    config = board.config
    sizes = ", ".join(f"{name} {n / 1024:.0f} kbit" for name, n in memory_bits(config).items())
    return (
        f"// Spikefold for {board.name}: {config.banks} x {config.lanes} lanes of "
        f"{config.weight_bits} bits, {config.clk_hz} Hz, {config.baud} baud.\n"
        f"// Large memories: {sizes}.\n"
        f"// Gateware {spec_hash(config):016x}. Top module: {MODULE}, with the ports\n"
        f"//   clk       clock of {config.clk_hz} Hz\n"
        "//   rst       reset, active high, may change at any time\n"
        "//   rx, tx    serial line, as the FPGA sees it: it receives on rx\n"
        "//   activity  high while the device works, for an LED\n"
        "// Timing was not closed with a vendor's tool: read its timing report.\n\n"
    )


def module_name(board: Board) -> str:
    """Return the name of the wrapper's module, which is an identifier of Verilog."""
    return "board_" + re.sub(r"\W", "_", board.name)


def _wrapper(board: Board) -> str:
    """Return the Verilog of the board's top module, called the wrapper.

    It connects the portable module to the board's clock and pins.
    """
    clock, locked = "clk", "1'b1"
    pll = ""
    if board.clock_hz != board.config.clk_hz:
        clock, locked = "core_clk", "locked"
        pll = "  wire core_clk, locked;\n" + _pll(board)
    resets = [f"~{locked}"]
    if board.reset is not None:
        resets.append("~rst" if board.reset.active_low else "rst")
    directions = {"uart_tx": "output", "led": "output"}
    ports = ",\n".join(f"    {directions.get(port, 'input')} wire {port}" for port in board.pins)
    led = ""
    if board.led is not None:
        led = f"  assign led = {'~' if board.led.active_low else ''}activity;\n"
    return (
        f"// Clock, reset and pins of {board.name} around the portable module {MODULE}.\n"
        f"module {module_name(board)} (\n{ports}\n);\n"
        f"  wire activity;\n{pll}"
        f"  {MODULE} device (\n"
        f"      .clk({clock}),\n"
        f"      .rst({' | '.join(resets)}),\n"
        "      .rx(uart_rx),\n"
        "      .tx(uart_tx),\n"
        "      .activity(activity)\n"
        f"  );\n{led}endmodule\n"
    )


def _pll(board: Board) -> str:
    """Return the Verilog of a PLL that generates ``core_clk`` and ``locked`` from ``clk``.

    Raises
    ------
    SpecError
        The device's PLL cannot make the clock, or is not known.
    """
    input_hz, output_hz = board.clock_hz, board.config.clk_hz
    if board.tool == "vivado" and re.match("x[caq]7", board.part.lower()):
        pll = xilinx_pll(input_hz, output_hz)
        return (
            "  wire feedback, pll_clk;\n"
            "  PLLE2_BASE #(\n"
            f"      .CLKIN1_PERIOD({1e9 / input_hz:.3f}),\n"
            f"      .DIVCLK_DIVIDE({pll.divclk_divide}),\n"
            f"      .CLKFBOUT_MULT({pll.clkfbout_mult}),\n"
            f"      .CLKOUT0_DIVIDE({pll.clkout0_divide})\n"
            "  ) pll (\n"
            "      .CLKIN1(clk),\n"
            "      .CLKFBIN(feedback),\n"
            "      .CLKFBOUT(feedback),\n"
            "      .CLKOUT0(pll_clk),\n"
            "      .CLKOUT1(),\n      .CLKOUT2(),\n      .CLKOUT3(),\n"
            "      .CLKOUT4(),\n      .CLKOUT5(),\n"
            "      .LOCKED(locked),\n"
            "      .PWRDWN(1'b0),\n"
            "      .RST(1'b0)\n"
            "  );\n"
            "  BUFG clock_buffer (.I(pll_clk), .O(core_clk));\n"
        )
    if board.tool == "quartus" and _family(board.part) == "Cyclone V":
        cyclone_v_pll(input_hz, output_hz)  # refuses a frequency that cannot be made exactly
        return (
            "  altera_pll #(\n"
            '      .fractional_vco_multiplier("false"),\n'
            f'      .reference_clock_frequency("{input_hz / MHZ:.6f} MHz"),\n'
            '      .operation_mode("direct"),\n'
            "      .number_of_clocks(1),\n"
            f'      .output_clock_frequency0("{output_hz / MHZ:.6f} MHz"),\n'
            '      .phase_shift0("0 ps"),\n'
            "      .duty_cycle0(50),\n"
            '      .pll_type("General"),\n'
            '      .pll_subtype("General")\n'
            "  ) pll (\n"
            "      .refclk(clk),\n"
            "      .rst(1'b0),\n"
            "      .outclk(core_clk),\n"
            "      .locked(locked),\n"
            "      .fboutclk(),\n"
            "      .fbclk(1'b0)\n"
            "  );\n"
        )
    raise SpecError(
        f"[core] clk_hz = {output_hz} needs a PLL, and that of {board.part} is not known here: use "
        f"clk_hz = {input_hz}, the frequency at the clock pin; or leave out tool, and make the "
        "clock with your tool's PLL in a wrapper of your own"
    )


def _inputs_outputs(board: Board) -> tuple[str, str]:
    """Return the inputs and the outputs whose timing does not matter, as two texts of names
    separated by spaces."""
    inputs = [port for port in ("rst", "uart_rx") if port in board.pins]
    outputs = [port for port in ("uart_tx", "led") if port in board.pins]
    return " ".join(inputs), " ".join(outputs)


def _vivado(board: Board) -> dict[str, str]:
    """Return files for Vivado, by name: constraints (XDC) and the script of a build."""
    name, (inputs, outputs) = board.name, _inputs_outputs(board)
    lines = [
        f"set_property -dict {{ PACKAGE_PIN {pin.name} IOSTANDARD {board.io_standard} }} "
        f"[get_ports {{ {port} }}]"
        for port, pin in board.pins.items()
    ]
    lines += [
        f"create_clock -name clk -period {1e9 / board.clock_hz:.3f} [get_ports {{ clk }}]",
        "# A serial line that nobody drives must be high.",
        "set_property PULLUP true [get_ports { uart_rx }]",
        "# The inputs go to synchronisers, and the outputs are slow.",
        f"set_false_path -from [get_ports {{ {inputs} }}]",
        f"set_false_path -to [get_ports {{ {outputs} }}]",
        "set_property -quiet ASYNC_REG TRUE [get_cells -quiet -hierarchical -filter "
        "{ NAME =~ *stage0_reg* || NAME =~ *stage1_reg* }]",
    ]
    if board.io_standard == "LVCMOS33":
        lines += [
            "set_property CFGBVS VCCO [current_design]",
            "set_property CONFIG_VOLTAGE 3.3 [current_design]",
        ]
    script = f"""\
# Makes {name}.bit without a project: vivado -mode batch -source {name}.tcl
cd [file dirname [file normalize [info script]]]
read_verilog {{{name}.v {name}_board.v}}
read_xdc {{{name}.xdc}}
# The device only adds: it needs no DSP block.
synth_design -top {module_name(board)} -part {board.part} -max_dsp 0
opt_design
place_design
phys_opt_design
route_design
report_utilization -file {{{name}_utilization.rpt}}
report_timing_summary -file {{{name}_timing.rpt}}
foreach type {{max min}} {{
    set slack [get_property SLACK [get_timing_paths -delay_type $type -max_paths 1 -nworst 1]]
    if {{$slack < 0}} {{
        error "timing is not met ($type: slack $slack ns): see {name}_timing.rpt, lower clk_hz"
    }}
}}
write_bitstream -force {{{name}.bit}}
"""
    return {f"{name}.xdc": "\n".join(lines) + "\n", f"{name}.tcl": script}


def _family(part: str) -> str | None:
    """Return the family of the Intel device called ``part``, or None if it is not known here."""
    starts = (start for start in _FAMILIES if part.upper().startswith(start))
    return _FAMILIES.get(next(starts, ""))


def _quartus(board: Board) -> dict[str, str]:
    """Return files for Quartus, by name: the project (QPF, QSF) and timing constraints (SDC)."""
    name, (inputs, outputs) = board.name, _inputs_outputs(board)
    family = _family(board.part)
    settings = [
        *([f'set_global_assignment -name FAMILY "{family}"'] if family else []),
        f"set_global_assignment -name DEVICE {board.part}",
        f"set_global_assignment -name TOP_LEVEL_ENTITY {module_name(board)}",
        "set_global_assignment -name PROJECT_OUTPUT_DIRECTORY output",
        f'set_global_assignment -name VERILOG_FILE "{name}.v"',
        f'set_global_assignment -name VERILOG_FILE "{name}_board.v"',
        f'set_global_assignment -name SDC_FILE "{name}.sdc"',
        "# The device only adds: it needs no DSP block.",
        'set_global_assignment -name DSP_BLOCK_BALANCING "LOGIC ELEMENTS"',
    ]
    for port, pin in board.pins.items():
        settings += [
            f"set_location_assignment PIN_{pin.name} -to {port}",
            f'set_instance_assignment -name IO_STANDARD "{board.io_standard}" -to {port}',
        ]
    settings += [
        "# A serial line that nobody drives must be high.",
        "set_instance_assignment -name WEAK_PULL_UP_RESISTOR ON -to uart_rx",
    ]
    timing = [
        f"create_clock -name clk -period {1e9 / board.clock_hz:.3f} [get_ports {{clk}}]",
        "derive_pll_clocks",
        "derive_clock_uncertainty",
        "# The inputs go to synchronisers, and the outputs are slow.",
        f"set_false_path -from [get_ports {{{inputs}}}] -to *",
        f"set_false_path -from * -to [get_ports {{{outputs}}}]",
    ]
    return {
        f"{name}.qpf": f'# quartus_sh --flow compile {name}\nPROJECT_REVISION = "{name}"\n',
        f"{name}.qsf": "\n".join(settings) + "\n",
        f"{name}.sdc": "\n".join(timing) + "\n",
    }


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Resources that a design takes, as Yosys estimates them."""

    luts: int
    """Number of LUTs (Xilinx) or ALMs (Intel)."""
    flip_flops: int
    block_ram_kbit: int
    """Size of the used block RAMs in units of 1,024 bits, where each block counts as a whole."""
    n_dsp: int


def _xilinx_fit(cells: Mapping[str, int]) -> Fit:
    """Return the resources that the cells of Yosys' ``synth_xilinx`` take (Xilinx UG953).

    ``cells`` is the number of cells by type.
    """
    lut_ram = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
    luts = sum(n for cell, n in cells.items() if re.fullmatch("LUT[1-6]|SRL.*|INV", cell))
    luts += sum(cells.get(cell, 0) * n for cell, n in lut_ram.items())
    return Fit(
        luts=luts,
        flip_flops=sum(n for cell, n in cells.items() if re.fullmatch("FD[RSCP]E(_1)?", cell)),
        block_ram_kbit=36 * cells.get("RAMB36E1", 0) + 18 * cells.get("RAMB18E1", 0),
        n_dsp=cells.get("DSP48E1", 0),
    )


def _cyclone_v_fit(cells: Mapping[str, int]) -> Fit:
    """Return the resources that the cells of Yosys' ``synth_intel_alm`` take.

    ``cells`` is the number of cells by type. An ALM holds one ALUT of more than four inputs, or two
    of up to four. A memory cell of 32 words by one bit takes one of an ALM's two halves (Intel
    CV-52001).
    """
    aluts = {int(c[-1]): n for c, n in cells.items() if re.fullmatch("MISTRAL_ALUT[2-6]", c)}
    whole = sum(n for width, n in aluts.items() if width > 4)
    halves = sum(n for width, n in aluts.items() if width <= 4)
    halves += cells.get("MISTRAL_ALUT_ARITH", 0) + cells.get("MISTRAL_NOT", 0)
    halves += cells.get("MISTRAL_MLAB", 0)
    return Fit(
        luts=whole + -(-halves // 2),
        flip_flops=cells.get("MISTRAL_FF", 0),
        block_ram_kbit=10 * cells.get("MISTRAL_M10K", 0),
        n_dsp=sum(n for cell, n in cells.items() if cell.startswith("MISTRAL_MUL")),
    )


_SYNTHESIS: dict[str, tuple[str, Callable[[Mapping[str, int]], Fit]]] = {
    "vivado": ("synth_xilinx -family xc7 -flatten -noiopad", _xilinx_fit),
    "quartus": ("synth_intel_alm -family cyclonev -noiopad -noclkbuf", _cyclone_v_fit),
}
"""Synthesis command of Yosys for each vendor tool, and the function that counts the resulting
cells."""


def estimate(board: Board, paths: list[Path]) -> Fit:
    """Return the resources that a board's Verilog files take, as Yosys estimates them.

    Raises
    ------
    BuildError
        The board file names no tool, so that the kind of FPGA is not known; the device is from
        Intel, but no Cyclone V; or Yosys failed.
    """
    if board.tool is None:
        raise BuildError(
            "--fit needs the key 'tool' of the board file, which says whose FPGA it is"
        )
    if board.tool == "quartus" and _family(board.part) != "Cyclone V":
        raise BuildError(
            f"--fit knows Cyclone V among Intel's devices, not {board.part!r}: leave it out, and "
            "let Quartus say what the design takes"
        )
    synthesis, count = _SYNTHESIS[board.tool]
    with tempfile.TemporaryDirectory(prefix="spikefold-") as folder:
        script, stat = Path(folder, "fit.ys"), Path(folder, "stat.json")
        sources = [str(path.resolve()) for path in paths if path.suffix == ".v"]
        blackbox = (
            ""
            if board.tool == "vivado"
            else "read_verilog -lib +/intel_alm/common/megafunction_bb.v\n"
        )
        script.write_text(
            f"{blackbox}"
            + "".join(f'read_verilog "{source}"\n' for source in sources)
            + f"{synthesis} -top {module_name(board)}\ntee -q -o {stat} stat -json\n"
        )
        run_yosys(script, "synthesis (pyosys)")
        cells = json.loads(stat.read_text())["design"]["num_cells_by_type"]
    return count(cells)


def check_fit(board: Board, fit: Fit) -> str:
    """Return a line of text with the resources that a design takes and those that the device has.

    Raises
    ------
    UnfitError
        The design takes more than the device has; or it uses DSP blocks, although it should need
        none.
    """
    unit = "ALMs" if board.tool == "quartus" else "LUTs"
    parts, short = [], []
    for used, total, what in (
        (fit.luts, board.luts, unit),
        (fit.block_ram_kbit, board.block_ram_kbit, "kbit of block RAM"),
    ):
        parts.append(f"{used:,} {f'of {total:,} ' if total else ''}{what}")
        if total is not None and used > total:
            short.append(parts[-1])
    if fit.n_dsp:
        raise UnfitError(f"{board.name}: {fit.n_dsp} DSP blocks are used, where none should be")
    text = f"{board.name}: about {', '.join(parts)}, {fit.flip_flops:,} flip-flops"
    if short:
        raise UnfitError(
            f"{text}: the device is too small ({'; '.join(short)}). Use fewer lanes or banks, or "
            "smaller memories"
        )
    return text


def deliver(
    name: str, file: Path | None, folder: Path | None, *, default: Path, fit: bool
) -> dict[str, Any]:
    """Write a board's files, and return a description of them as JSON values.

    The description has the paths of the files and, with ``fit``, the estimated resources.

    Parameters
    ----------
    name, file : see :func:`board_for`.
    folder : folder to write to; None means the folder in ``default`` that has the board's name.
    fit : also estimate the resources.

    Raises
    ------
    SpecError, BuildError, OSError
        See :func:`board_for`, :func:`write` and :func:`check_fit`.
    """
    board = board_for(name, file)
    paths = write(board, folder or default / board.name)
    return {
        "board": board.name,
        "gateware_hash": f"{spec_hash(board.config):016x}",
        "files": [str(path) for path in paths],
        "fit": check_fit(board, estimate(board, paths)) if fit else None,
        "next": _next_step(board),
    }


def _next_step(board: Board) -> str:
    """Return the command or instruction that turns the written files into a bitstream."""
    if board.tool == "vivado":
        return f"vivado -mode batch -source {board.name}.tcl"
    if board.tool == "quartus":
        return f"quartus_sh --flow compile {board.name}"
    return f"instantiate the module {MODULE} in your own top module"
