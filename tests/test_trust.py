"""Nothing that comes from elsewhere is unpickled: a file may be a stranger's."""

import hashlib
import inspect
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

import diffcps
from diffcps.runs.folder import RunFolder

SOURCES = sorted(Path(diffcps.__file__).parent.rglob("*.py"))
LOADS = re.compile(r"\b(?:torch|np|numpy)\.load\([^\n]*")


class Evil:
    """What runs a command as it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a stranger's code was run",))


def test_every_load_refuses_pickles() -> None:
    calls = [(path.name, call) for path in SOURCES for call in LOADS.findall(path.read_text(encoding="utf-8"))]
    assert {name for name, _ in calls} >= {"folder.py", "behaviour.py"}
    for name, call in calls:
        safe = "weights_only=True" if call.startswith("torch") else "allow_pickle=False"
        assert safe in call, f"{name}: {call}"
    for path in SOURCES:
        assert not re.search(r"\b(?:pickle|cloudpickle|joblib|dill)\.loads?\(|read_pickle", path.read_text("utf-8")), (
            path
        )


def test_a_checkpoint_with_a_strangers_code_is_not_run(tmp_path: Path) -> None:
    """Its checksum is right: whoever can write the one can write the other."""
    folder = RunFolder(tmp_path)
    folder.save_checkpoint({"learner": torch.zeros(1)}, 1)
    (file,) = folder.path.glob("checkpoint/*.pt")
    content = io.BytesIO()
    torch.save({"learner": Evil()}, content)
    file.write_bytes(content.getvalue())
    file.with_suffix(".sha256").write_text(hashlib.sha256(content.getvalue()).hexdigest())
    with pytest.raises(pickle.UnpicklingError):
        folder.load_checkpoint()


def test_shipped_weights_hold_numbers_only() -> None:
    files = list(Path(diffcps.__file__).parent.rglob("*.npz"))
    assert files
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "fiubU" for name in arrays), file


def test_rays_dashboard_listens_to_this_machine_alone() -> None:
    """It runs whatever it is sent; the sweep leaves Ray's own choice as it is."""
    assert inspect.signature(ray.init).parameters["dashboard_host"].default == "127.0.0.1"
    assert not [path for path in SOURCES if re.search(r"dashboard_host|0\.0\.0\.0", path.read_text("utf-8"))]
