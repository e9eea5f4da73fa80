"""What is installed: `pyproject.toml` names all that the package imports, and `constraints.txt` versions that it allows."""

import ast
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def imported(file: Path) -> set[str]:
    """Top names of the absolute imports of a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_what_is_imported_is_named() -> None:
    """As a requirement or in an extra; else a fresh environment would lack it, unless another package happens to bring it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    texts = [*project["dependencies"], *(text for name, own in extras if name != "dev" for text in own)]
    named = {canonicalize_name(Requirement(text).name) for text in texts} | {"diffcps"}
    names = {name for file in (ROOT / "diffcps").rglob("*.py") for name in imported(file)} - set(
        sys.stdlib_module_names
    )
    brought = packages_distributions()
    unnamed = {name for name in names if not named & {canonicalize_name(one) for one in brought.get(name, [name])}}
    assert not unnamed


def test_constraints_fit_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [
        Requirement(text)
        for texts in (project["dependencies"], *project["optional-dependencies"].values())
        for text in texts
    ]
    chosen = defaultdict(list)
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        requirement = Requirement(line)
        (version,) = requirement.specifier
        assert version.operator == "==", line
        chosen[canonicalize_name(requirement.name)].append(version.version)
    wrong = [
        f"{one}: {versions or 'is missing'}"
        for one in needed
        if canonicalize_name(one.name) != project["name"]
        and not ((versions := chosen[canonicalize_name(one.name)]) and all(one.specifier.contains(v) for v in versions))
    ]
    assert not wrong, f"run `make constraints`: {wrong}"
