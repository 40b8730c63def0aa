"""Check that the documents agree with the code: tables, commands, options, links and names."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from amaranth.hdl import Shape
from amaranth.lib import data

from hw import protocol
from sw.cli import main as spikefold
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
    """Return the row for a structure in the table of docs/link.md."""
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
    for pattern in ("*.md", "docs/**/*.md", "bitstreams/*.md", "sw/*/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
)
WORDS = r"((?: +[^\s`#|&]+)*)"
MODULE_COMMAND = re.compile(rf"python3? -m ((?:hw|sim|sw)\b[\w.]*){WORDS}")
SPIKEFOLD_COMMAND = re.compile(rf"(?<![\w.-])spikefold ([a-z]+){WORDS}")
OPTION = re.compile(r"(?<=\s)--[a-z][a-z0-9-]*")
FILE = re.compile(r"(?<![\w./-])(?:bitstreams|docs|examples|hw|sim|sw|tests)/[\w./-]*")
MODULE = re.compile(r"(?<![\w./-])(?:hw|sim|sw)(?:\.[A-Za-z_]\w*)+")


def document_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    """Return the text of a document, with commands that continue on further lines joined to one
    line."""
    text = path.read_text().replace("\\\n", " ")
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", lambda code: code[0].replace("\n", " "), text)


def commands(text: str) -> list[tuple[str, str]]:
    """Return (module, arguments) of every command in a text, called by ``python -m`` or
    ``spikefold``."""
    found = [(module.rstrip("."), words) for module, words in MODULE_COMMAND.findall(text)]
    for name, words in SPIKEFOLD_COMMAND.findall(text):
        if name != "completion":
            assert name in spikefold.NAMES, f"spikefold {name}"
            found.append((spikefold.module_of(name), words))
    return found


def options(module: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the options that a command's help lists."""
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main(["--help"])
    assert end.value.code == 0
    lines = re.findall(r"^ {2,4}(-.*)$", capsys.readouterr().out, re.MULTILINE)
    return {o for line in lines for o in OPTION.findall(" " + line.partition("  ")[0])}


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_id)
def test_links_lead_to_files(path: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)", path.read_text()):
        if "://" not in target:
            place = path.parent / target if target else path
            assert place.exists(), target
            assert not heading or heading in headings(place), f"{target}#{heading}"


def headings(path: Path) -> set[str]:
    """Return the headings of a document as anchors, as they are used in links."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=document_id)
def test_commands_and_their_options_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module, words in commands(read(path)):
        place = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
        assert hasattr(importlib.import_module(place), "main"), f"python -m {module}"
        if used := set(OPTION.findall(words)):
            assert used <= options(place, capsys), f"{module}{words}"


# The change log names modules of earlier versions, too.
@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=document_id
)
def test_files_and_modules_exist(path: Path) -> None:
    """Check that the files, modules, classes and functions that a document names as code exist.

    A word in capitals in a path, such as sw/checkpoints/NAME.pt, matches any text.
    """
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", path.read_text()):
        for name in FILE.findall(code):
            assert re.search(r"[A-Z]{2}", name) or (ROOT / name.rstrip(".")).exists(), name
        for name in MODULE.findall(code):
            assert exists(name), name


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or something that a module defines."""
    value: object = importlib.import_module(name.partition(".")[0])
    module = True
    for n in range(2, name.count(".") + 2):
        *_, last = parts = name.split(".")[:n]
        if module and hasattr(value, "__path__") and importlib.util.find_spec(".".join(parts)):
            value = importlib.import_module(".".join(parts))
        elif hasattr(value, last):
            value, module = getattr(value, last), False
        else:
            return False
    return True


def test_the_checks_of_documents_find_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    text = "`python -m sw.run --board` or `spikefold nir --out x`"
    assert commands(text) == [("sw.run", " --board"), ("sw.cli.nir", " --out x")]
    known = options("sw.cli.run", capsys)
    assert "--board" in known and "--no-such-option" not in known
    assert exists("sw.network.network.validate") and not exists("sw.network.no_such_module")
    with pytest.raises(AssertionError, match="spikefold nonsense"):
        commands("spikefold nonsense --board")
