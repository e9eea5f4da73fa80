"""A copy of the code that a policy needs to act, for machines without this project.

The name of the copy's package ends in a digest of its content. So it does not conflict with an installed ``diffcps``, and
models of different versions can be used in one process, each with its own code.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

import diffcps

SHIPPED = (
    "__init__.py", "errors.py", "files.py", "text.py", "config", "algorithms", "training/__init__.py", "training/policy.py",
    "runs/__init__.py", "runs/folder.py", "deploy/__init__.py", "deploy/saved.py", "deploy/pyfunc.py",
)  # fmt: skip
"""Files and folders of ``diffcps/``. They import nothing but each other, numpy, torch and safetensors."""
_IMPORT = re.compile(r"^(\s*(?:from|import) )diffcps\b", re.MULTILINE)


@cache
def _sources() -> dict[str, str]:
    root = Path(diffcps.__file__).parent
    files = [
        file
        for name in SHIPPED
        for file in ([root / name] if name.endswith(".py") else sorted((root / name).glob("*.py")))
    ]
    return {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in files}


@cache
def package() -> str:
    """Name of the copy: ``diffcps_`` and ten digits of the SHA-256 of its content."""
    return f"diffcps_{hashlib.sha256(repr(sorted(_sources().items())).encode()).hexdigest()[:10]}"


def ship(folder: Path) -> Path:
    """Write the copy into ``folder`` and return the folder of the package."""
    target = folder / package()
    for name, text in _sources().items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_IMPORT.sub(rf"\g<1>{package()}", text), encoding="utf-8")
    return target
