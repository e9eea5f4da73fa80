"""Behaviour policies: the small networks that collect the project's own locomotion data, and how they were trained.

Each shipped policy is a Gaussian whose mean is a two-layer tanh network of the normalised observation and whose
standard deviation does not depend on the state. It runs in NumPy, so that collecting needs neither torch nor the
library that trained it (stable-baselines3, the optional extra ``behaviour``).
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcps import envs
from diffcps.config import Physics
from diffcps.errors import UserError
from diffcps.tasks import Task, get_task

POLICIES = Path(__file__).parent / "policies"
"""Where the shipped policies lie: one ``.npz`` of weights and one ``.json`` of facts per environment."""

Array = NDArray[np.float32]

_OBSERVATION_CLIP = 10.0
"""Normalised observations are clipped to ±10, as they were in training."""


@dataclass(frozen=True)
class BehaviourPolicy:
    """N(mean(s), std²) clipped to the action bounds; every array is float32."""

    observation_mean: Array
    """[o]"""
    observation_std: Array
    """[o]"""
    weight_0: Array
    """[o, h]"""
    bias_0: Array
    """[h]"""
    weight_1: Array
    """[h, h]"""
    bias_1: Array
    """[h]"""
    weight_2: Array
    """[h, a]"""
    bias_2: Array
    """[a]"""
    action_std: Array
    """[a]"""

    def mean(self, observations: NDArray[np.floating]) -> Array:
        """Mean actions [..., a] (not clipped) for observations [..., o]."""
        x: Array = (np.asarray(observations, dtype=np.float32) - self.observation_mean) / self.observation_std
        x = np.clip(x, -_OBSERVATION_CLIP, _OBSERVATION_CLIP)
        x = np.tanh(x @ self.weight_0 + self.bias_0)
        x = np.tanh(x @ self.weight_1 + self.bias_1)
        return x @ self.weight_2 + self.bias_2

    def act(self, observations: NDArray[np.floating], generator: np.random.Generator, bound: float = 1.0) -> Array:
        """Actions [..., a] drawn from the policy for observations [..., o], clipped to ±``bound``."""
        mean = self.mean(observations)
        noise = generator.standard_normal(mean.shape, dtype=np.float32)
        return np.clip(mean + self.action_std * noise, -bound, bound)

    @property
    def checksum(self) -> str:
        """sha256 of the weights."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the arrays to an ``.npz`` file."""
        np.savez(path, **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class PolicyFacts:
    """What is known about a trained policy; stored beside its weights."""

    environment: str
    physics: str
    score: float
    """Mean normalised score of the stochastic policy."""
    return_mean: float
    return_std: float
    length_mean: float
    """Mean episode length in environment steps."""
    episodes: int
    """Episodes behind the three means."""
    steps: int
    """Environment steps of training behind these weights."""
    seed: int
    target_score: float
    """Training stopped at the first checkpoint that scored this much, or at the end of its budget."""
    settings: dict[str, Any]
    """Arguments of PPO."""
    versions: dict[str, str]


def shipped() -> tuple[str, ...]:
    """Names of the environments that have a shipped policy."""
    return tuple(sorted(path.stem for path in POLICIES.glob("*.npz")))


def load(environment: str, folder: Path = POLICIES) -> BehaviourPolicy:
    """The policy of an environment. Raises ``UserError`` when there is none or its file is damaged."""
    path = folder / f"{environment}.npz"
    if not path.is_file():
        raise UserError(
            f"there is no behaviour policy for {environment!r} in {folder} (there are: {', '.join(shipped())}). "
            f"`diffcps data train-policy --help` says how to train one."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {f.name: file[f.name] for f in fields(BehaviourPolicy)}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a complete behaviour policy ({error}). Reinstall the project.") from error
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is not an array of finite float32 values. Reinstall the project.")
    return BehaviourPolicy(**arrays)


def facts(environment: str, folder: Path = POLICIES) -> PolicyFacts:
    """The facts stored beside the policy of an environment."""
    path = folder / f"{environment}.json"
    try:
        return PolicyFacts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} does not describe a behaviour policy ({error}). Reinstall the project.") from error


def evaluate(
    policy: BehaviourPolicy, task: Task, physics: Physics, episodes: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns [episodes] and lengths [episodes] of the stochastic policy in the task's environment."""
    env = envs.make(task, physics)
    generator = np.random.default_rng(seed)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    for i in range(episodes):
        observation, _ = env.reset(seed=int(generator.integers(2**31)))
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(
                policy.act(observation, generator, task.max_action)
            )
            returns[i] += float(reward)
            lengths[i] += 1
            over = terminated or truncated
    env.close()
    return returns, lengths


TARGET_SCORES = {"hopper": 47.0, "halfcheetah": 40.0, "walker2d": 60.0}
"""Normalised scores at which training stops: "medium" in D4RL's sense, about a third to a half of an expert."""

_PPO: dict[str, Any] = {
    "n_steps": 512,
    "batch_size": 128,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "max_grad_norm": 0.5,
}
_PPO_CHANGES: dict[str, dict[str, Any]] = {"halfcheetah": {"gamma": 0.98, "gae_lambda": 0.92}}
_ENVIRONMENTS = 4
_LOG_STD_INIT = -1.0
_CHECKPOINT_EVERY = 25_000
_CHECKPOINT_EPISODES = 20
_FINAL_EPISODES = 100


def train(
    environment: str,
    output: Path,
    steps: int = 1_500_000,
    seed: int = 0,
    target_score: float | None = None,
    physics: Physics = "d4rl",
    progress: Callable[[str], None] = print,
) -> PolicyFacts:
    """Train a behaviour policy with PPO and write ``{environment}.npz`` and ``.json`` into the folder ``output``.

    Every 25 000 environment steps the stochastic policy is scored; training stops at the first checkpoint that reaches
    ``target_score`` (default: the environment's "medium"), or after ``steps``. The weights kept are those of the
    checkpoint whose score came nearest to the target. The shipped policies are what the defaults give; another machine
    or other versions give others. Raises ``UserError`` when stable-baselines3 is not installed, the environment is not
    one of the three locomotion environments or the folder cannot be written.
    """
    if environment not in TARGET_SCORES:
        raise UserError(f"environment = {environment!r}: it must be one of {', '.join(TARGET_SCORES)}.")
    try:
        # An optional dependency, needed by nothing else.
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
    except ImportError as error:
        raise UserError(
            f"training a behaviour policy needs stable-baselines3 ({error}). "
            f"Install it: pip install 'diffcps[behaviour]'"
        ) from error

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the policy cannot be stored in {output} ({error}). Name another folder.") from error
    task = get_task(f"{environment}-medium-v2")
    target = TARGET_SCORES[environment] if target_score is None else target_score
    settings = _PPO | _PPO_CHANGES.get(environment, {})
    vector = VecNormalize(
        DummyVecEnv([lambda: envs.make(task, physics)] * _ENVIRONMENTS),
        clip_obs=_OBSERVATION_CLIP,
        gamma=settings["gamma"],
    )
    annealed = settings | {"learning_rate": lambda remaining: remaining * settings["learning_rate"]}
    model = PPO("MlpPolicy", vector, seed=seed, device="cpu", policy_kwargs={"log_std_init": _LOG_STD_INIT}, **annealed)

    kept: BehaviourPolicy | None = None
    kept_score, kept_steps, due = float("-inf"), 0, _CHECKPOINT_EVERY

    def at_each_step(_locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        nonlocal kept, kept_score, kept_steps, due
        if model.num_timesteps < due:
            return True
        due += _CHECKPOINT_EVERY
        policy = _folded(model, vector)
        returns, lengths = evaluate(policy, task, physics, _CHECKPOINT_EPISODES, seed)
        score = float(task.normalised_score(returns).mean())
        progress(
            f"{environment}: {model.num_timesteps} steps, return {returns.mean():.0f} ± {returns.std():.0f}, "
            f"length {lengths.mean():.0f}, score {score:.1f}"
        )
        if abs(score - target) < abs(kept_score - target):
            kept, kept_score, kept_steps = policy, score, model.num_timesteps
        return score < target

    model.learn(steps, callback=at_each_step)
    if kept is None:
        kept, kept_steps = _folded(model, vector), model.num_timesteps
    vector.close()
    # The checkpoint was chosen on few episodes, so it is scored again on fresh ones.
    returns, lengths = evaluate(kept, task, physics, _FINAL_EPISODES, seed + 1)
    result = PolicyFacts(
        environment=environment,
        physics=physics,
        score=round(float(task.normalised_score(returns).mean()), 2),
        return_mean=round(float(returns.mean()), 1),
        return_std=round(float(returns.std()), 1),
        length_mean=round(float(lengths.mean()), 1),
        episodes=_FINAL_EPISODES,
        steps=kept_steps,
        seed=seed,
        target_score=target,
        settings=settings
        | {"environments": _ENVIRONMENTS, "log_std_init": _LOG_STD_INIT, "annealed_over": steps, "normalised": True},
        versions={
            name: metadata.version(name) for name in ("stable-baselines3", "torch", "gymnasium", "mujoco", "numpy")
        },
    )
    kept.save(output / f"{environment}.npz")
    (output / f"{environment}.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
    return result


def _folded(model: Any, vector: Any) -> BehaviourPolicy:
    """The actor of a stable-baselines3 PPO model with its observation normalisation folded in."""
    state = {name: value.detach().numpy().copy() for name, value in model.policy.state_dict().items()}
    return BehaviourPolicy(
        observation_mean=vector.obs_rms.mean.astype(np.float32),
        observation_std=np.sqrt(vector.obs_rms.var + vector.epsilon).astype(np.float32),
        weight_0=np.ascontiguousarray(state["mlp_extractor.policy_net.0.weight"].T),
        bias_0=state["mlp_extractor.policy_net.0.bias"],
        weight_1=np.ascontiguousarray(state["mlp_extractor.policy_net.2.weight"].T),
        bias_1=state["mlp_extractor.policy_net.2.bias"],
        weight_2=np.ascontiguousarray(state["action_net.weight"].T),
        bias_2=state["action_net.bias"],
        action_std=np.exp(state["log_std"]),
    )
