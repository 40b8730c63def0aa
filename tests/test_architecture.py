"""Check that imports between rooms only go down, and that the documented table of rooms is right.

A *room* is a package or module with one task, and a *floor* is a set of rooms that do not import
each other (docs/architecture.md).
"""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("hw.spec", "hw.text"),
    ("hw.protocol",),
    ("hw.parts", "hw.bus"),
    ("hw.offchip",),
    ("hw.core", "hw.link", "hw.usb"),
    ("hw.top",),
    ("hw.boards",),
    ("hw.tools",),
    ("sw.files", "sw.shipped"),
    ("sw.network",),
    ("sw.data", "sw.compile"),
    ("sw.model", "sw.driver"),
    ("sw.convert", "sw.reporting"),
    ("sw.exchange", "sw.training"),
    ("sw.cli",),
    ("sim",),
)
"""Rooms of each floor, the lowest floor first. A file may import from its own room, and from rooms
on lower floors."""
HEIGHT = {room: n for n, floor in enumerate(FLOORS) for room in floor}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_of(path): path for part in ("hw", "sw", "sim") for path in (ROOT / part).rglob("*.py")
}


def room_of(module: str) -> str | None:
    """Return the room that contains a module; None for entry points of commands (``python -m
    ...``)."""
    return max(
        (room for room in HEIGHT if module == room or module.startswith(room + ".")),
        key=len,
        default=None,
    )


def imports(module: str) -> set[str]:
    """Return the project's modules that a module imports, also inside functions and only for
    types."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found & set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    room = room_of(module)
    for other in imports(module):
        below = room_of(other)
        assert below is not None, f"{other} is the entry point of a command: nothing imports it"
        if room not in (None, below):
            assert HEIGHT[below] < HEIGHT[room], f"{module} imports {other}, which is not below it"


def test_there_are_no_circles_of_files() -> None:
    graphlib.TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_entry_points_hold_nothing_but_the_call() -> None:
    for module, path in MODULES.items():
        if room_of(module) is None and path.name != "__init__.py":
            assert len(path.read_text().splitlines()) <= 10, f"{module} belongs in a room"


TABLE = re.findall(
    r"^\| (\d+) \| `([\w.]+)` \| [^|]+ \| ([^|]+) \|$",
    (ROOT / "docs" / "architecture.md").read_text(),
    re.MULTILINE,
)
"""Rows of the table of rooms in docs/architecture.md: floor, room, most important files."""


def test_document_lists_the_rooms_floor_by_floor() -> None:
    floors = [(int(floor), room) for floor, room, _ in TABLE]
    assert [n for n, _ in itertools.groupby(floors, lambda row: row[0])] == [
        *range(1, len(FLOORS) + 1)
    ]
    for n, floor in enumerate(FLOORS, 1):
        assert tuple(room for of_floor, room in floors if of_floor == n) == floor


@pytest.mark.parametrize(("room", "files"), [row[1:] for row in TABLE], ids=[r[1] for r in TABLE])
def test_document_names_files_of_the_rooms(room: str, files: str) -> None:
    place = ROOT / room.replace(".", "/")
    folder = place if place.is_dir() else place.parent
    names = re.findall(r"`([^`]+)`", files)
    assert names and all((folder / name).is_file() for name in names)
    assert place.is_dir() or names == [f"{place.name}.py"]
