"""The site: the project's Markdown pages and notebooks as they lie in the repository, and the functions from their docstrings.

``make docs`` builds it with the project's folder as the source, so that a link works on the site as it does in the repository.
"""

from sphinx.application import Sphinx

import diffcps

project, author, release = "DiffCPS", "The DiffCPS authors", diffcps.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = [
    "*.md", "docs/*.md", "docs/results/*.md", "cluster/README.md", "notebooks/*.md", "notebooks/*.ipynb", "tests/benchmarks/*.md",
]  # fmt: skip
exclude_patterns = ["docs/_build"]
root_doc = "README"
html_theme = "furo"
html_title = f"DiffCPS {release}"
html_extra_path = ["site"]
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
CONTENTS = {
    "First steps": [
        "notebooks/README",
        "docs/words",
        "docs/commands",
        "docs/sweeps",
        "docs/results",
        "docs/results/index",
        "docs/mlflow",
        "docs/policies",
    ],
    "Background": [
        "docs/algorithms",
        "docs/data",
        "docs/studies",
        "docs/speed",
        "tests/benchmarks/RESULTS",
        "cluster/README",
        "docs/machines",
    ],
    "Adding to it": ["docs/add-an-algorithm", "docs/add-a-data-set", "docs/api", "CONTRIBUTING", "CHANGELOG"],
    "Notebooks": ["notebooks/0*"],
}
"""Caption in the side bar -> pages."""


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the contents to the first page: in its file they would be seen on pages that show plain Markdown."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            options = f":hidden:\n:glob:\n:caption: {caption}\n"
            source[0] += f"\n```{{toctree}}\n{options}\n" + "\n".join(f"/{page}" for page in pages) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
