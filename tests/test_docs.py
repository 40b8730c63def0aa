"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from amaranth.hdl import Shape
from amaranth.lib import data

from hw import protocol
from sw.network import netfile

DOCS = Path(__file__).parents[1] / "docs"
LINK = (DOCS / "link.md").read_text()
STRUCTURES = (
    protocol.Address,
    protocol.Rows,
    protocol.Run,
    protocol.Rate,
    protocol.Result,
    protocol.DeviceStatus,
    protocol.Identity,
    protocol.LayerCounters,
    protocol.Descriptor,
    protocol.Header,
    protocol.Level,
)


def structure_row(layout: type[data.Struct]) -> str:
    """A structure's row of the table in docs/link.md."""
    fields, end = [], 0
    for name, field in data.Layout.cast(layout):
        assert field.offset == end, f"{layout.__name__} has a gap before {name}"
        end += field.width
        if isinstance(field.shape, data.ArrayLayout):
            element = field.shape.elem_shape
            what = f"{name} " if isinstance(element, int) else ""
            kind = element if isinstance(element, int) else element.__name__
            fields.append(f"{what}{field.shape.length} x {kind}")
        elif isinstance(field.shape, type) and issubclass(field.shape, data.Struct):
            fields.append(f"{name} ({field.shape.__name__})")
        else:
            signed = "s" if Shape.cast(field.shape).signed else ""
            fields.append(f"{name} {signed}{field.width}")
    return f"| {layout.__name__} | {protocol.n_bytes(layout)} | {', '.join(fields)} |\n"


@pytest.mark.parametrize("layout", STRUCTURES, ids=lambda layout: layout.__name__)
def test_link_document_has_the_layout(layout: type[data.Struct]) -> None:
    assert structure_row(layout) in LINK


def test_link_document_has_every_code() -> None:
    expected = [f"| 0x{member:02x} | {member.name} |" for member in protocol.Opcode]
    for codes in (protocol.Status, protocol.Space):
        expected += [f"| {member.value} | {member.name} |" for member in codes]
    for row in expected:
        assert f"\n{row}" in LINK
    table_rows = [line for line in LINK.splitlines() if line.startswith("| 0x")]
    assert len(table_rows) == len(protocol.Opcode)


def test_network_file_document_has_the_format() -> None:
    text = (DOCS / "network-file.md").read_text()
    assert f'`"{netfile.FORMAT}"`' in text and f"| `version` | `{netfile.VERSION}`." in text
    for error in netfile.NetworkFileError.__subclasses__():
        assert f"`{error.__name__}`" in text


ROOT = DOCS.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "bitstreams/*.md", "sw/checkpoints/*.md")
    for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"python -m ((?:hw|sim|sw)[\w.]*)((?: +[^\s`#|&]+)*)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_their_options_are_there(path: Path) -> None:
    for module, words in COMMAND.findall(path.read_text()):
        name = module.rstrip(".").replace(".", "/")
        places = [ROOT / f"{name}.py", ROOT / name / "__main__.py"]
        source = "".join(place.read_text() for place in places if place.exists())
        assert '__name__ == "__main__"' in source, module
        if "add_inputs(parser)" in source:  # options that commands share
            source += (ROOT / "sw" / "run.py").read_text()
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", words):
            field = option.removeprefix("--").replace("-", "_")  # sw.train makes options of fields
            known = f'"{option}"' in source or re.search(rf"\b{field}\b", source)
            assert known or option == "--help", f"{module} {option}"
