"""DiffCPS: offline reinforcement learning with a constrained diffusion policy (arXiv 2310.05333)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcps.deploy import SavedPolicy, load_policy
    from diffcps.runs.read import Sweep
    from diffcps.runs.read import collect as load_sweep

__version__ = "0.1.0"
__all__ = ["SavedPolicy", "Sweep", "load_policy", "load_sweep"]
_FOUND_IN = {
    "SavedPolicy": "deploy:SavedPolicy", "load_policy": "deploy:load_policy", "Sweep": "runs.read:Sweep",
    "load_sweep": "runs.read:collect",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """What people use of the library, imported when it is asked for: torch takes seconds that most commands need not pay."""
    if name in _FOUND_IN:
        module, _, attribute = _FOUND_IN[name].partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
