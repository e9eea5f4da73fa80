"""Data sets: D4RL files and data collected on the spot, as the transitions that a learner learns from."""

from collections.abc import Sequence
from pathlib import Path

from diffcps.config import DataConfig
from diffcps.data import d4rl, store
from diffcps.data.store import missing
from diffcps.data.transitions import DatasetInfo, Episode, Origin, Transitions, checksum, from_episodes
from diffcps.errors import UserError
from diffcps.tasks import Task

__all__ = ["DatasetInfo", "Episode", "Transitions", "load", "missing"]


def load(task: Task, data: DataConfig, directories: Sequence[Path]) -> Transitions:
    """The task's transitions with its reward transform applied; ``info.returns`` keep the untransformed rewards.

    ``directories`` are searched for D4RL files before the standard folders (``store.search_path``). Collected data are
    made now when they are not in ``store.collected_root()`` yet.

    Raises ``UserError`` when the task does not offer the source, the data are missing, or they cannot be learned from.
    """
    refused = store.not_offered(task, data)
    if refused is not None:
        raise UserError(refused)
    transitions = _collected(task, data) if data.source == "collected" else _d4rl(task, directories)
    return transitions.reward_transformed(task.reward_transform)


def _d4rl(task: Task, directories: Sequence[Path]) -> Transitions:
    path = store.find(task, directories)
    if path is None:
        raise UserError(store.how_to_get([task], directories))
    return d4rl.load(task, path)


def _collected(task: Task, data: DataConfig) -> Transitions:
    # Imported here: Minari and the simulator take seconds to import, and only collected data need them.
    from diffcps.data import minari

    path, episodes = minari.collected(task, data, store.collected_root())
    origin = Origin(
        source="collected",
        path=path,
        checksum=checksum(episodes),
        provenance="other",
        provenance_note="Collected on the spot by a behaviour policy of this project: not D4RL's data.",
    )
    return from_episodes(episodes, origin)
