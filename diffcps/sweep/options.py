"""The flags of a sweep, as people type them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from diffcps.errors import UserError
from diffcps.runs.flags import LaunchFlags, Maybe, Pairs, RunFlags, Several, pairs

Preset = Literal["paper", "demo", "search", "ablation"]


@dataclass(frozen=True)
class _SweepFlags:
    """Which trials a sweep has."""

    preset: Preset = "paper"
    """Where the settings start from; all other flags change it.
    ``paper``: the table of the paper, with its hyper-parameters.
    ``demo``: a bandit, a locomotion and a maze task in minutes, without downloads.
    ``search``: Optuna chooses the main settings of the algorithm (DiffCPS: T, λ-clip and κ).
    ``ablation``: the grid T × λ-clip of the paper."""
    tasks: Several[str] = ()
    """Names of the tasks."""
    vary: Annotated[Pairs, tyro.conf.arg(metavar="NAME=V1,V2,…")] = ()
    """Several values of any setting. Repeat the flag for more settings."""
    search: Annotated[Pairs, tyro.conf.arg(metavar="NAME=LOW:HIGH[:log]|A,B,C")] = ()
    """A setting that Optuna chooses, from a range or from values. Repeat the flag for more settings."""
    trials: int = 30
    """Trials for each task in a search."""
    name: Maybe[str] = None
    """Name of the sweep; by default the preset and a hash of what it runs."""
    resume: Annotated[Maybe[str], tyro.conf.arg(metavar="NAME")] = None
    """Continue the sweep of this name exactly as it was started; no flag that changes a trial is allowed then."""


@dataclass(frozen=True)
class SweepOptions(LaunchFlags, RunFlags, _SweepFlags):
    """Train an algorithm on many tasks, settings and seeds, and print a table of the results.

    Without flags: the full D4RL table of the paper, 15 tasks × 5 seeds. The same command again continues the sweep.

    Several values (``--diffusion-steps 5 10``, ``--vary learning_rate=1e-4,3e-4``) make a trial of each combination.
    """

    def changes(self) -> dict[str, Any]:
        """The settings that the flags give, by name; a tuple gives several values."""
        given, several = super().changes(), pairs("vary", self.vary)
        if twice := given.keys() & several.keys():
            raise UserError(f"--vary {', '.join(sorted(twice))}: another flag sets it, too.")
        return given | {name: tuple(text.split(",")) for name, text in several.items()}
