"""The map of the project: what README says of it is what import-linter enforces, and the code keeps to it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffcps"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
LONGEST = 60
"""Lines of a function."""
MOST_POSITIONAL = 4
EQUATIONS = "algorithms", "training/measures", "tasks/bandits"
"""Rooms whose calls follow the equations, and have as many arguments as those."""


def rooms() -> list[str]:
    """The rooms in the order of the import contract, lowest first."""
    (floors,) = (contract for contract in CONTRACTS if contract["type"] == "layers")
    return [room.strip() for floor in reversed(floors["layers"]) for room in floor.split(":")]


def test_the_readme_shows_the_import_contract() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("\n## The house\n")[1].split("\n## ")[0]
    listed = [
        room
        for line in section.splitlines()
        if line.startswith("| `")
        for room in re.findall(r"`([\w.]+?)(?:\.py|/)`", line.split("|")[1])
    ]
    assert sorted(listed[:4]) == sorted(rooms()[:4])
    assert listed[4:] == rooms()[4:]


def test_every_room_is_in_the_contract() -> None:
    there = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert there - {"__init__", "__main__"} == set(rooms())
    assert len(there) <= 20


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_are_short() -> None:
    long = [
        f"{source.relative_to(PACKAGE)}:{function.lineno} {function.name}"
        for source in SOURCES
        for function in functions(ast.parse(source.read_text("utf-8")))
        if (function.end_lineno or 0) - function.lineno >= LONGEST
    ]
    assert not long, f"functions of more than {LONGEST} lines"


def test_calls_name_their_arguments() -> None:
    many = [
        f"{source.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call.func)}"
        for source in SOURCES
        if not source.relative_to(PACKAGE).as_posix().startswith(EQUATIONS)
        for call in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(call, ast.Call) and len(call.args) > MOST_POSITIONAL and not takes_any_number(call)
    ]
    assert not many, f"calls with more than {MOST_POSITIONAL} positional arguments"


def takes_any_number(call: ast.Call) -> bool:
    """Whether the function takes arguments of one kind, as many as there are, or is a library's that knows no names."""
    alike = {"Group", "Table", "add_row", "join", "print", "require_number", "warning", "zip"}
    return ast.unparse(call.func).split(".")[-1] in alike | {"mjv_initGeom"}


def test_rays_private_modules_are_imported_in_one_file() -> None:
    private = re.compile(r"^\s*(?:from|import) ray\.(?:\S*\.)?_", re.MULTILINE)
    having = {source.relative_to(PACKAGE).as_posix() for source in SOURCES if private.search(source.read_text("utf-8"))}
    assert having <= {"sweep/ray_train.py"}
