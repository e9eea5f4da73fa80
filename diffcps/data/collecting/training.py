"""Training the behaviour policies that ship with the project (needs the optional extra ``behaviour``)."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from diffcps import envs
from diffcps.config import Physics
from diffcps.data.collecting import behaviour
from diffcps.data.collecting.behaviour import BehaviourPolicy, PolicyFacts, Snapshot
from diffcps.data.collecting.practice import Practice, Runs, Walks
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error
from diffcps.tasks import Robot
from diffcps.tasks.registry import get_task

TARGET_SCORES: dict[str, float] = {"hopper": 44.0, "halfcheetah": 42.0, "walker2d": 62.0}
"""Level of the medium policy: D4RL's own medium data have these mean scores. The ant has no medium policy."""

STEPS: dict[str, int] = {"hopper": 3_000_000, "halfcheetah": 10_000_000, "walker2d": 6_000_000, "ant": 6_000_000}
"""Environment steps of the shipped trainings."""

_PPO: dict[str, Any] = {
    "n_steps": 256,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "max_grad_norm": 0.5,
}
_PPO_CHANGES: dict[str, dict[str, Any]] = {"halfcheetah": {"gamma": 0.98, "gae_lambda": 0.92}}
_ENVIRONMENTS = 16
_LOG_STD_INIT = -1.0
_CHECKPOINTS = 80
"""Checkpoints of a training; the first, before any step, is the untrained policy."""
_CHECKPOINT_EPISODES = 20
_FINAL_EPISODES = 100
_PACKAGES = "stable-baselines3", "torch", "gymnasium", "mujoco", "numpy"
"""Their versions are recorded with the policies."""
_REPLAY_SNAPSHOTS = 8
"""Snapshots kept on the way to the medium policy, both ends included."""


def train(
    robot: Robot,
    output: Path,
    steps: int | None = None,
    seed: int = 0,
    target_score: float | None = None,
    physics: Physics = "d4rl",
    threads: int = 1,
    progress: Callable[[str], None] = print,
) -> PolicyFacts:
    """Train a robot with PPO and write the snapshots worth keeping as ``{robot}.npz`` and ``.json`` into ``output``.

    The stochastic policy is scored ``_CHECKPOINTS`` times along ``steps`` environment steps. Kept are the *medium*
    policy (nearest to ``target_score`` among the checkpoints up to the first that reaches it), six between it and the
    untrained one, the untrained one, and the *expert*, the best of all; each is scored again on fresh episodes. Another
    machine or other versions give other policies. Raises ``UserError`` when stable-baselines3 is not installed, the
    robot is none of the four or the folder cannot be written.
    """
    _check_robot(robot)
    ppo, normalise, as_vector = _stable_baselines()
    with unwritable_as_user_error(output, "Name another folder."):
        output.mkdir(parents=True, exist_ok=True)
    steps = STEPS[robot] if steps is None else steps
    target = TARGET_SCORES.get(robot, 0.0) if target_score is None else target_score
    settings = _PPO | _PPO_CHANGES.get(robot, {})
    simulations = as_vector(practice(robot, physics, n=_ENVIRONMENTS, seed=seed, threads=threads))
    vector = normalise(simulations, clip_obs=behaviour.INPUT_CLIP, gamma=settings["gamma"])
    annealed = settings | {"learning_rate": lambda remaining: remaining * settings["learning_rate"]}
    start = {"log_std_init": _LOG_STD_INIT}
    model = ppo("MlpPolicy", vector, seed=seed, device="cpu", policy_kwargs=start, **annealed)
    judge = practice(robot, physics, n=_CHECKPOINT_EPISODES, seed=seed + 1, threads=threads)

    def checkpoint(done: int) -> _Checkpoint:
        policy = _folded(model, vector)
        snapshot = score(policy, judge, episodes=_CHECKPOINT_EPISODES, seed=seed, steps=done)
        progress(f"{robot}: {words(snapshot)}")
        return _Checkpoint(policy, snapshot)

    # between two updates the policy does not change
    checkpoints = _learn(model, steps, max(steps / _CHECKPOINTS, settings["n_steps"] * _ENVIRONMENTS), checkpoint)
    vector.close()
    kept, medium, expert = _worth_keeping(checkpoints, target)
    if robot not in TARGET_SCORES:  # the ant only ever walks as well as it can
        kept, medium = [expert], expert
    chosen = [checkpoints[i] for i in kept]
    scored = _score_again(robot, chosen, physics=physics, seed=seed, threads=threads)
    facts = PolicyFacts(
        robot=robot,
        physics=physics,
        snapshots=scored,
        medium=kept.index(medium),
        expert=kept.index(expert),
        episodes=_FINAL_EPISODES,
        seed=seed,
        target_score=target,
        settings=settings | start | {"environments": _ENVIRONMENTS, "annealed_over": steps, "normalised": True},
        versions={name: metadata.version(name) for name in _PACKAGES},
    )
    behaviour.save(output, [one.policy for one in chosen], facts)
    return facts


def _score_again(
    robot: Robot, chosen: "list[_Checkpoint]", physics: Physics, seed: int, threads: int
) -> tuple[Snapshot, ...]:
    """Scores on fresh episodes: the checkpoints were chosen on few."""
    judge = practice(robot, physics, n=_FINAL_EPISODES, seed=seed + 2, threads=threads)
    return tuple(
        score(one.policy, judge, episodes=_FINAL_EPISODES, seed=seed + 3, steps=one.snapshot.steps) for one in chosen
    )


def _check_robot(robot: str) -> None:
    """Raise ``UserError`` for a robot that has no training."""
    if robot not in get_args(Robot):
        raise UserError(f"robot = {robot!r}: it must be one of {', '.join(get_args(Robot))}.")


def _stable_baselines() -> tuple[Any, Any, Any]:
    """PPO, the normalising wrapper and our vector environment. Raises ``UserError`` if the package is not installed."""
    try:
        # An optional dependency, needed by nothing else.
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecNormalize

        from diffcps.data.collecting.gym import AsVecEnv
    except ImportError as error:
        raise UserError(
            f"training a behaviour policy needs stable-baselines3 ({error}). "
            f"Install it: pip install 'diffcps[behaviour]'"
        ) from error
    return PPO, VecNormalize, AsVecEnv


def _learn(model: Any, steps: int, interval: float, checkpoint: Callable[[int], "_Checkpoint"]) -> "list[_Checkpoint]":
    """Train for ``steps`` environment steps; returns a checkpoint for every ``interval`` of them, from before the first on."""
    found: list[_Checkpoint] = []

    def at_each_step(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        if model.num_timesteps >= len(found) * interval:
            found.append(checkpoint(model.num_timesteps if found else 0))
        return True

    model.learn(steps, callback=at_each_step)
    return found


@dataclass(frozen=True, eq=False)
class _Checkpoint:
    policy: BehaviourPolicy
    snapshot: Snapshot


def practice(robot: Robot, physics: Physics, n: int, seed: int, threads: int = 1) -> Practice:
    """``n`` simulations in which the robot learns or is scored."""
    if robot == "ant":
        return Walks(envs.plane(physics, n, threads), seed)
    task = get_task(f"{robot}-medium-v2")
    return Runs(task, envs.simulations(task, physics, n, threads), seed)


def score(policy: BehaviourPolicy, judge: Practice, episodes: int, seed: int, steps: int = 0) -> Snapshot:
    """The score of the stochastic policy over ``episodes`` episodes, as many at once as ``judge`` has simulations."""
    generator = np.random.default_rng(seed)
    returns, lengths = rollouts(policy, judge, episodes, generator)
    scores = judge.scores(returns, lengths)
    return Snapshot(
        steps=steps,
        score=round(float(scores.mean()), 2),
        return_mean=round(float(returns.mean()), 1),
        return_std=round(float(returns.std()), 1),
        length_mean=round(float(lengths.mean()), 1),
    )


def rollouts(
    policy: BehaviourPolicy, judge: Practice, episodes: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns and lengths of the first episode of each simulation, [episodes] each, repeated until there are enough."""
    returns: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.int64]] = []
    while sum(len(some) for some in returns) < episodes:
        total, length = np.zeros(judge.n), np.zeros(judge.n, np.int64)
        playing = np.ones(judge.n, bool)
        for i in range(judge.n):
            judge.restart(i)
        while playing.any():
            rewards, ended, cut = judge.step(policy.act(judge.observe(), generator))
            total += rewards * playing
            length += playing
            playing &= ~(ended | cut)
        returns.append(total)
        lengths.append(length)
    return np.concatenate(returns)[:episodes], np.concatenate(lengths)[:episodes]


def _worth_keeping(checkpoints: list[_Checkpoint], target: float) -> tuple[list[int], int, int]:
    """The checkpoints to keep, in order, and which of them are the medium one and the expert."""
    scores = np.array([checkpoint.snapshot.score for checkpoint in checkpoints])
    reached = np.flatnonzero(scores >= target)
    until = int(reached[0]) if len(reached) else len(scores) - 1
    medium = int(np.abs(scores[: until + 1] - target).argmin())
    expert = int(scores.argmax())
    way = np.linspace(0, medium, _REPLAY_SNAPSHOTS).round().astype(int).tolist()
    return sorted({*way, medium, expert}), medium, expert


def words(snapshot: Snapshot) -> str:
    """A snapshot in a line."""
    return (
        f"{snapshot.steps} steps, score {snapshot.score:.2f}, return {snapshot.return_mean:.0f} ± "
        f"{snapshot.return_std:.0f}, length {snapshot.length_mean:.0f}"
    )


def _folded(model: Any, vector: Any) -> BehaviourPolicy:
    """The actor of a stable-baselines3 PPO model with its observation normalisation folded in."""
    state = {name: value.detach().numpy().copy() for name, value in model.policy.state_dict().items()}
    return BehaviourPolicy(
        input_mean=vector.obs_rms.mean.astype(np.float32),
        input_std=np.sqrt(vector.obs_rms.var + vector.epsilon).astype(np.float32),
        weight_0=np.ascontiguousarray(state["mlp_extractor.policy_net.0.weight"].T),
        bias_0=state["mlp_extractor.policy_net.0.bias"],
        weight_1=np.ascontiguousarray(state["mlp_extractor.policy_net.2.weight"].T),
        bias_1=state["mlp_extractor.policy_net.2.bias"],
        weight_2=np.ascontiguousarray(state["action_net.weight"].T),
        bias_2=state["action_net.bias"],
        action_std=np.exp(state["log_std"]),
    )
