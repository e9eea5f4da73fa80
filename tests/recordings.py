"""Small D4RL-shaped recordings of the evaluation environments, with the simulator's states."""

import h5py
import mujoco
import numpy as np

from diffcps import envs
from diffcps.tasks.registry import get_task


def record(name, physics, rows=300, *, limit=60, seed=0, dtype=np.float32, heavier=1.0):
    """The arrays of a file: random actions under one physics, episodes of ``limit`` steps, the last one cut.

    ``heavier`` multiplies the mass of the robot's first body.
    """
    task = get_task(name)
    env = envs.make(task, physics).unwrapped
    if heavier != 1.0:
        # the compiled model is shared by all environments of the process
        xml = mujoco.MjSpec.from_file(env.fullpath)
        env.model = xml.compile()
        env.model.body_mass[1] *= heavier
        mujoco.mj_setConst(env.model, mujoco.MjData(env.model))
        env.data = mujoco.MjData(env.model)
    generator = np.random.default_rng(seed)
    kept = {key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    kept |= {"infos/qpos": [], "infos/qvel": []}
    observation, _ = env.reset(seed=seed)
    step = 0
    for _ in range(rows):
        action = generator.uniform(-1, 1, task.action_size).astype(np.float32)
        values = [observation, action, 0.0, False, False, env.data.qpos.copy(), env.data.qvel.copy()]
        observation, reward, terminated, _, _ = env.step(action)
        step += 1
        ended = terminated and task.terminals_end
        values[2:5] = reward, terminated, step == limit and not ended
        for key, value in zip(kept, values, strict=True):
            kept[key].append(value)
        if ended or step == limit:
            observation, _ = env.reset()
            step = 0
    env.close()
    floats = {
        key: np.asarray(values, dtype=dtype) for key, values in kept.items() if key not in ("terminals", "timeouts")
    }
    return floats | {key: np.asarray(kept[key], dtype=bool) for key in ("terminals", "timeouts")}


def write(path, content, **options):
    """``content`` as an HDF5 file at ``path``; returns the path."""
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file.create_dataset(key, data=value, **(options if np.ndim(value) else {}))
    return path
