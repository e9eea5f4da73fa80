"""Small Minari data sets in the layouts of the public ones, made through Minari's own functions from real steps."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium_robotics
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

gymnasium.register_envs(gymnasium_robotics)


def rolled_out(environment: gymnasium.Env, steps: list[int], seed: int = 0) -> list[EpisodeBuffer]:
    """An episode of random actions of each length, stacked as Minari's collector stacks them."""
    rng = np.random.default_rng(seed)
    space = environment.action_space
    episodes = []
    for number, length in enumerate(steps):
        observations = [environment.reset(seed=seed + number)[0]]
        actions, rewards, terminations = [], [], []
        for _ in range(length):
            actions.append(rng.uniform(space.low, space.high).astype(np.float32))
            observation, reward, terminated, *_ = environment.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
            terminations.append(bool(terminated))
            if terminated:
                break
        truncations = [False] * len(rewards)
        truncations[-1] = not terminations[-1]
        episodes.append(EpisodeBuffer(number, None, None, stacked(observations), np.array(actions), rewards, terminations,
                                      truncations))  # fmt: skip
    return episodes


def stacked(observations: list[Any]) -> Any:
    """Observations with a leading axis of steps, leaf by leaf."""
    if isinstance(observations[0], dict):
        return {key: stacked([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)


def hopper(root: Path, dataset_id: str = "mujoco/hopper/medium-v0", *, scores: bool = True, **changes: Any) -> Path:
    """Hopper-v5 with flat observations, 8 episodes; ``changes`` go to Minari's function."""
    environment = gymnasium.make("Hopper-v5", disable_env_checker=True)
    references = {"ref_min_score": 20.0, "ref_max_score": 3500.0} if scores else {}
    return create(root, dataset_id, rolled_out(environment, [9] * 8), {"env": environment, **references, **changes})


def antmaze(root: Path, dataset_id: str = "D4RL/antmaze/umaze-v1") -> Path:
    """AntMaze-v4 with Dict observations and a continuing task: three episodes, the second at the goal from step 3 on."""
    environment = gymnasium.make("AntMaze_UMaze-v4", continuing_task=True, reset_target=False, disable_env_checker=True)
    episodes = rolled_out(environment, [6, 6, 6])
    episodes[1].rewards[3:] = [1.0, 1.0, 1.0]
    judged = deepcopy(environment.spec)
    judged.kwargs["maze_map"] = [
        [1, 1, 1, 1, 1],
        [1, "r", 0, 0, 1],
        [1, 1, 1, 0, 1],
        [1, "g", 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]
    references = {"ref_min_score": 0.0, "ref_max_score": 500.0}
    return create(root, dataset_id, episodes, {"env": environment, "eval_env": judged, **references})


def create(root: Path, dataset_id: str, episodes: list[EpisodeBuffer], arguments: Mapping[str, Any]) -> Path:
    """The folder of a data set made by ``minari.create_dataset_from_buffers`` under ``root``."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a data set for the public should say
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        minari.create_dataset_from_buffers(dataset_id, episodes, **arguments)
    return root / dataset_id
