"""``CITATION.cff`` is what the Citation File Format 1.2.0 asks for (its own schema, CC BY 4.0, lies in ``cff/``)."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from diffcps import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture
def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    return found


@pytest.fixture
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "tests/cff/schema-1.2.0.json").read_text("utf-8"))
    return found


def test_it_follows_the_format(citation: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(citation)


@pytest.mark.parametrize("missing", ["title", "authors", "cff-version", "message"])
def test_the_schema_would_notice(citation: dict[str, Any], schema: dict[str, Any], missing: str) -> None:
    del citation[missing]
    assert not jsonschema.Draft7Validator(schema).is_valid(citation)


def test_it_names_this_version_this_licence_and_the_paper(citation: dict[str, Any]) -> None:
    assert citation["version"] == __version__
    assert (ROOT / "LICENSE").read_text("utf-8").startswith(f"{citation['license']} License")
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["He", "Shen", "Zhang", "Tan", "Wang"]
    assert "2310.05333" in paper["url"]
