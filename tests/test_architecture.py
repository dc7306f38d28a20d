"""The layout holds: imports go one way, heavy libraries stay where they belong, registries name what is there."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from cllm_cli.layers import LAYERS
from cllm_cli.model import ARCHITECTURES
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.schedule import SCHEDULES
from cllm_cli.text.formats import FORMATS
from cllm_cli.text.tokenizers import TOKENIZERS

PACKAGE = Path(__file__).parent.parent / "cllm_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the lowest to the highest: a line imports its own rank or a lower one.
RANKS = [
    {"errors", "config", "config_file", "presets", "registry", "printable", "regular"},
    {"kernels"},
    {"layers"},
    {"model", "optim", "text"},
    {"training"},
    {"reporting", "profiling", "checks"},
    {"commands"},
    {"main"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def part(path):
    """The folder or module of the package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def parsed(path):
    return ast.parse(path.read_bytes())


def imports(path, within=ast.walk):
    """The dotted names that a file imports, by line."""
    for node in within(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def at_import(tree):
    """The nodes that run when a module is imported, and not for the type checker alone."""
    for node in ast.iter_child_nodes(tree):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not guarded and not isinstance(node, ast.FunctionDef):
            yield node
            yield from at_import(node)


def test_every_folder_has_its_rank():
    assert {part(path) for path in FILES} - {"__init__"} == RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_line_imports_a_higher_one(path):
    for line, name in imports(path):
        root, *rest = name.split(".")
        if root == PACKAGE.name and rest and rest[0] in RANK and part(path) in RANK:
            assert RANK[rest[0]] <= RANK[part(path)], f"line {line}: {name}"


ALLOWED = {
    "typer": {"commands", "main"},
    "rich": {"reporting"},
    "numba": {"kernels", "layers", "model", "optim", "training", "checks", "profiling"},
    "llvmlite": {"kernels"},
    "safetensors": {"training"},
    "pyarrow": {"text"},
    "zstandard": {"text"},
    "click": set(),
    "torch": set(),
    "transformers": set(),
}


@pytest.mark.parametrize("library", ALLOWED)
def test_libraries_stay_where_they_belong(library):
    found = {part(path) for path in FILES for _, name in imports(path) if name.split(".")[0] == library}
    assert found <= ALLOWED[library]


@pytest.mark.parametrize("path", sorted((PACKAGE / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_commands_import_what_is_heavy_in_their_bodies(path):
    light = {*RANKS[0], "commands"}
    for line, name in imports(path, at_import):
        root, *rest = name.split(".")
        assert root not in {"numba", "numpy", "rich", "safetensors"}, f"line {line}: {name}"
        assert root != PACKAGE.name or not rest or rest[0] in light, f"line {line}: {name}"


def calls(path, names):
    """Lines of a file that call one of `names`: functions, or methods of anything."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in names:
                yield node


def test_jit_flags_stand_in_one_place():
    found = {path.name for path in FILES if any(calls(path, {"njit", "jit"}))}
    assert found == {"jit.py"}


def test_a_run_is_written_by_one_writer():
    """In training, only durable.py opens files for writing; the metrics are appended to."""
    writers = {
        path.name
        for path in FILES
        if part(path) in {"training", "model", "text", "optim"}
        for call in calls(path, {"open", "write_text", "write_bytes", "save_file", "save", "tofile"})
        for mode in [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if isinstance(mode, str) and set(mode) & set("wax+")
    }
    assert writers == {"durable.py", "metrics.py"}


def test_nothing_below_reporting_prints():
    quiet = [path for path in FILES if RANK.get(part(path), 99) <= RANK["training"] and path.name != "worker.py"]
    assert quiet
    for path in quiet:
        assert not [name for _, name in imports(path) if name.startswith("rich")], path
        source = path.read_text("utf-8")
        assert "sys.stdout" not in source, path
        assert "sys.stderr" not in source, path


@pytest.mark.parametrize(
    "registry",
    [LAYERS, ARCHITECTURES, OPTIMIZERS, SCHEDULES, FORMATS, TOKENIZERS],
    ids=lambda registry: registry.kind,
)
def test_registries_name_what_is_there(registry):
    for name, entry in registry.items():
        found = registry.load(name)
        declared = getattr(found, "name", getattr(found, "kind", getattr(found, "__name__", None)))
        assert declared == name
        assert entry.summary
        assert not entry.summary.endswith(".")


def test_every_kernel_module_of_layers_is_registered():
    """A layer's file that no registry line names would be untested."""
    registered = {entry.target.split(":")[0].split(".")[-1] for entry in LAYERS.values()}
    there = {path.stem for path in (PACKAGE / "layers").glob("*.py")} - {"__init__", "base"}
    assert there == registered
