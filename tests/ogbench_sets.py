"""Small files in OGBench's format, made by random policies in its environments: a fixture, not OGBench's data."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


def arrays(environment: str, trajectories: int = 3, steps: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """What OGBench's scripts record of ``environment`` (without ``-v0``): trajectories × (steps + 1) rows.

    Mazes start one trajectory at the goal of task 1, so that some rows reach it.
    """
    env: Any = gymnasium.make(f"ogbench:{environment}-v0", disable_env_checker=True, max_episode_steps=-1).unwrapped
    maze = hasattr(env, "maze_map")
    rng = np.random.default_rng(seed)
    np.random.seed(seed)
    found: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "terminals", "qpos", "qvel")}
    for number in range(trajectories):
        observation, _ = env.reset(seed=seed + number, options={"task_id": 1})
        if maze and number == 1 and hasattr(env, "set_xy"):
            env.set_xy(np.array(env.ij_to_xy(env.task_infos[0].get("goal_ij"))))
            observation = env.get_ob()
        for step in range(steps + 1):
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            row = {"observations": observation, "actions": action, "terminals": step == steps}
            row |= {"qpos": env.data.qpos.copy(), "qvel": env.data.qvel.copy()}
            if hasattr(env, "_cur_button_states"):
                row["button_states"] = env._cur_button_states.copy()
            for name, value in row.items():
                found.setdefault(name, []).append(value)
            observation = env.step(action)[0]
    env.close()
    return {name: np.stack(values) for name, values in found.items()}


def write(folder: Path, environment: str, kind: str, content: dict[str, np.ndarray]) -> Path:
    """The file of a data set, as OGBench names it, and the validation file that its package also wants."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{environment}-{kind}-v0.npz"
    for name in (path, folder / f"{path.stem}-val.npz"):
        np.savez_compressed(name, **content)  # type: ignore[arg-type]
    return path
