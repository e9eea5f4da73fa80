"""The versions that are installed by default, `constraints.txt`, are among those that `pyproject.toml` allows."""

import tomllib
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


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
