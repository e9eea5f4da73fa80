"""Published numbers as CSV beside this file: those of the paper (arXiv 2310.05333), D4RL's reference scores, other algorithms'.

``published_columns`` has a line for each column of scores in the literature, with the protocol, version of the data and source;
``published_scores`` has the scores, except that those of ``table1:X`` are the column X of ``table1``; the algorithm of planners
of trajectories is empty. ``published_warnings`` says where a column misleads. Scores are as printed, most of them from a third
party's copy of the tables.
"""

import csv
import functools
import json
from importlib import resources


@functools.cache
def rows(table: str) -> tuple[dict[str, str], ...]:
    """The rows of one CSV file in this folder, e.g. ``rows("table1")``, as dictionaries of strings (empty: not published)."""
    text = (resources.files(__name__) / f"{table}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@functools.cache
def observation_statistics() -> dict[str, dict[str, list[float]]]:
    """Published mean and standard deviation of each observation dimension of D4RL v2 sets: task -> {"mean", "std"}."""
    text = (resources.files(__name__) / "d4rl_v2_observation_stats.json").read_text(encoding="utf-8")
    return {task: values for task, values in json.loads(text).items() if not task.startswith("_")}
