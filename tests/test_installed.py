"""Check that a wheel, installed outside the checkout, has working commands and all files they
need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("hw", "sw", "sim", "bitstreams", "pyproject.toml", "setup.py", "README.md", "LICENSE")


class Installed:
    """Virtual environment with the wheel installed; other packages come from the tests'
    environment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.site = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}"
        self.site /= "site-packages"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in an empty folder, without the checkout on Python's
        path."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        program = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(program, cwd=work, env=env, capture_output=True, text=True)


def built_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that no build files are left in the
    checkout."""
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    made = Installed(folder)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", f"--python={made.bin / 'python'}", "install"]
    command += ["--no-deps", "--no-index", "--quiet", str(built_wheel(folder))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A plain line of a .pth file adds a folder, whose own .pth files, an editable install of the
    # checkout among them, are not read.
    (made.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def test_packages_and_files_are_those_of_the_wheel(installed: Installed) -> None:
    code = "import hw, sim, sw, sw.shipped; from hw.tools import manifest, netlist\n"
    code += "print(hw.__file__, sim.__file__, sw.__file__, sw.shipped.NETWORK, sw.shipped.SAMPLES, "
    code += "manifest.BITSTREAMS, netlist.WORK, sep='\\n')"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    *files, work = map(Path, done.stdout.split())
    for path in files:
        assert path.exists() and path.is_relative_to(installed.site)
    assert not work.is_relative_to(installed.site) and not work.is_relative_to(ROOT)


def test_the_command_says_its_version(installed: Installed) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = installed.run("spikefold", "--version")
    assert done.returncode == 0 and done.stdout.split()[-1] == version, done.stderr


def test_the_shipped_network_runs_on_the_virtual_board(installed: Installed) -> None:
    done = installed.run("spikefold", "run", "--board", "sim", "-n", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_done"] == 2


def test_bitstreams_are_found(installed: Installed) -> None:
    table = installed.run("spikefold", "build", "--table")
    assert table.returncode == 0 and table.stdout in (ROOT / "docs/results.md").read_text(), (
        table.stderr
    )
    assert "--port" in installed.run("spikefold", "flash", "--help").stdout
    # A programmer that shows what it is given, in front of those that may be installed.
    programmer = installed.bin / "openFPGALoader"
    programmer.write_text('#!/bin/sh\necho "given $@" >&2\n')
    programmer.chmod(0o755)
    code = "import os, sys; os.environ['PATH'] = os.path.dirname(sys.executable) + ':/bin'\n"
    code += "from hw.tools import flash; sys.exit(flash.main(['ulx3s-85f']))"
    done = installed.run("python", "-c", code)
    bitstream = installed.site / "hw" / "bitstreams" / "ulx3s-85f.bit"
    assert done.returncode == 0 and f" {bitstream}\n" in done.stderr, done.stderr
    given = next(line for line in done.stderr.splitlines() if line.startswith("given "))
    assert given.endswith(str(bitstream))


def test_a_checkpoint_says_which_version_made_it(installed: Installed) -> None:
    done = installed.run(
        "python", "-c", "from sw.model import checkpoint; print(checkpoint.code_version())"
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.strip() == f"v{version}", done.stderr
