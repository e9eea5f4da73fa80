"""The class that MLflow loads: a saved policy with ``predict``. Each MLflow model contains a copy of this code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps.deploy.saved import SavedPolicy, read


class Served:
    """MLflow's interface to one policy."""

    def __init__(self, policy: SavedPolicy) -> None:
        self.policy = policy

    def predict(self, observations: Any, params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Actions ``[B, a]`` for observations ``[B, o]``; ``candidates``, ``network`` and ``seed`` as in ``SavedPolicy.act``.

        MLflow fills in the usual number of candidates, of which a student has one.
        """
        given = dict(params or {})
        actor = given.get("network")
        candidates = None if actor == "student" else given.get("candidates")
        return self.policy.act(np.asarray(observations), candidates, actor, given.get("seed"))


def _load_pyfunc(path: str) -> Served:
    """Called by MLflow with the folder that ``SavedPolicy.save`` wrote."""
    return Served(read(Path(path)))
