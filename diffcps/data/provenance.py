"""Is a file D4RL's own data, or other data under the same name?

Published scores mean something beside ours only when the data are the same. Three kinds of evidence: a published
sha256, the published mean and standard deviation of every observation dimension, and the number of rows. The latter two
tell another policy's data or a part of the data from D4RL's; they cannot see altered rewards or a changed order.
"""

import numpy as np
from numpy.typing import NDArray

from diffcps import paper
from diffcps.bandits import bandit
from diffcps.config import DataConfig
from diffcps.data.transitions import FloatArray, Provenance
from diffcps.tasks import Task

KNOWN_SHA256 = {
    "hopper_medium-v2.hdf5": "5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0",
    "halfcheetah_medium_replay-v2.hdf5": "48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683",
}

TOLERANCE = 0.02
"""Largest difference from a published mean, in published standard deviations, and from a published standard deviation,
relative. The published numbers were summed in float32 and without the last, unfinished trajectory: those of
medium-expert, which is medium and expert joined, are up to 0.007 away from what medium and expert give together. Data
of another policy differ by 0.1 and more in several dimensions."""

ROW_TOLERANCE = 0.01
"""Relative; a smaller part of D4RL's data has nearly the same statistics but is another data set."""

_ANTMAZE_ROWS = 1_000_000
_REPLAY_ROWS = {"halfcheetah": 202_000, "hopper": 402_000, "walker2d": 302_000}
_CHUNK = 65_536


def d4rl_rows(task: Task) -> int:
    """Rows of D4RL's own file for the task, up to ``ROW_TOLERANCE``."""
    if task.domain == "antmaze":
        return _ANTMAZE_ROWS
    if "medium-replay" in task.name:
        return _REPLAY_ROWS[task.environment]
    return 2_000_000 if "medium-expert" in task.name else 1_000_000


def usual_rows(task: Task) -> int:
    """Rows to collect where nobody says how many: D4RL's own number, a bandit's own, or some."""
    # trials of the ring are known by keys with the general number
    if task.domain == "bandit" and task.environment != "ring":
        return bandit(task.environment).rows
    return d4rl_rows(task) if task.d4rl_file else DataConfig().rows


def judge(task: Task, sha256: str, observations: FloatArray) -> tuple[Provenance, str]:
    """Whether the file with this sha256 and these observations [N, o] (all finite) holds D4RL's data for the task.

    Returns the verdict and a sentence for a person: ``verified`` when the sha256 is the published one, or statistics
    and row count agree; ``other`` when they do not; ``unverified`` when nothing is published (AntMaze).
    """
    if KNOWN_SHA256.get(task.d4rl_file or "") == sha256:
        return "verified", f"D4RL's own file: its sha256 is the published one ({sha256[:12]}…)."
    # a file may be packed anew without a change of content, so another sha256 alone refutes nothing; it is said, though
    packed = " The published sha256 is another one." if task.d4rl_file in KNOWN_SHA256 else ""
    rows, published_rows = len(observations), d4rl_rows(task)
    counts = f"{_grouped(rows)} rows, D4RL's file has about {_grouped(published_rows)}"
    enough = abs(rows - published_rows) <= ROW_TOLERANCE * published_rows
    statistics = paper.observation_statistics().get(task.name)
    if statistics is None:
        size = "The row count fits" if enough else "The row count does not fit"
        return "unverified", (
            f"Cannot be checked against D4RL: nothing is published for {task.name}, whose version only the file's name "
            f"tells. {size}: {counts}."
        )

    mean, std = _moments(observations)
    published_mean, published_std = np.array(statistics["mean"]), np.array(statistics["std"])
    mean_error = np.abs(mean - published_mean) / published_std
    std_error = np.abs(std / published_std - 1.0)
    worst = int(np.argmax(np.maximum(mean_error, std_error)))
    largest = max(mean_error[worst], std_error[worst])
    if largest > TOLERANCE:
        return "other", (
            f"Not D4RL's data, whatever the file's name: observation dimension {worst} has mean {mean[worst]:.4g} and "
            f"standard deviation {std[worst]:.4g}, D4RL's {published_mean[worst]:.4g} and {published_std[worst]:.4g} "
            f"({counts})."
        )
    if not enough:
        return "other", f"Not the whole of D4RL's data: the observations look like it, but there are {counts}."
    return "verified", (
        f"Agrees with D4RL's data: mean and standard deviation of all {len(mean)} observation dimensions are the "
        f"published ones within {largest:.2%} ({counts}).{packed}"
    )


def _grouped(number: int) -> str:
    return f"{number:_}".replace("_", " ")


def _moments(observations: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[o] mean and [o] population standard deviation in float64, without a float64 copy of the whole."""
    mean = observations.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(observations), _CHUNK):
        squares += np.square(observations[start : start + _CHUNK] - mean).sum(axis=0)
    return mean, np.sqrt(squares / len(observations))
