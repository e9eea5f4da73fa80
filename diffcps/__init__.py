"""DiffCPS: offline reinforcement learning with a constrained diffusion policy (arXiv 2310.05333)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcps.deploy import SavedPolicy, load_policy

__version__ = "0.1.0"
__all__ = ["SavedPolicy", "load_policy"]


def __getattr__(name: str) -> Any:
    """What people use of the library, imported when it is asked for: torch takes seconds that most commands need not pay."""
    if name in __all__:
        from diffcps import deploy

        return getattr(deploy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
