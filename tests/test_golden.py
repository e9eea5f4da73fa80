"""Golden values: what every algorithm computes in 20 steps is what it computed when ``tests/golden`` was written.

    python -m tests.test_golden            say which values differ in the last bit
    python -m tests.test_golden --write    write the golden values again

The files name things by concept, so they outlive the names in the code; one section, "The program", knows those. A
tensor is kept as the checksum of its bytes and, for each member, its size, sum, norm and first and last numbers.
"""

import functools
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps import algorithms
from diffcps.algorithms import diffcps, streams
from diffcps.config import EvaluationConfig, Member, RunConfig, Values
from diffcps.tasks.registry import get_task
from diffcps.training import engine
from diffcps.training.evaluation import Evaluator
from diffcps.training.learner import Learner, Part

FOLDER = Path(__file__).parent / "golden"
CASES: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
STEPS, OBSERVATION, ACTION, MAX_ACTION = 20, 4, 2, 0.7
TOLERANCE = 5e-5
"""Between processors. Without vector instructions 97 % of the values stay within 1e-6, the worst deviates by 1.7e-5."""
SHORTENED = 11
"""Numbers that are kept of a long row: its size, sum and norm, its first four numbers and its last four."""
Arrays = dict[str, NDArray[Any]]

# The program: all that this file knows of its names -------------------------------------------------------------------

STATE = {
    "policy": "actor",
    "average policy": "average",
    "critic": "critic",
    "target critic": "target",
    "multiplier": "multiplier",
    "policy Adam mean": "actor_adam.first",
    "policy Adam square": "actor_adam.second",
    "policy Adam count": "actor_adam.count",
    "critic Adam mean": "critic_adam.first",
    "critic Adam square": "critic_adam.second",
    "critic Adam count": "critic_adam.count",
    "multiplier Adam mean": "multiplier_adam.first",
    "multiplier Adam square": "multiplier_adam.second",
    "multiplier Adam count": "multiplier_adam.count",
    "mean loss of each diffusion step": "step_losses",
    "sum and count of the cloned constraint": "behaviour",
    "cloned policy": "cloned",
    "cloned mean loss of each diffusion step": "cloned_losses",
    "mean violation": "smoothed",
}
DRAWS = {
    "rows": "rows",
    "noise of the next actions": "next_actions",
    "diffusion steps": "step",
    "noise of the explained actions": "noise",
    "noise of the own actions": "actions",
    "heads swapped": "swap",
}


def make(settings: Mapping[str, Any], members: Sequence[Mapping[str, Any]], data: Arrays, max_action: float) -> Learner:
    """A pack; ``settings`` are what its members share, and the name of the algorithm."""
    shared = dict(settings)
    name = shared.pop("algorithm", "diffcps")
    known = algorithms.get(name).settings.among
    for own in (
        shared,
        *members,
    ):  # `known` leaves out what only other algorithms have, and would leave out a misspelt name
        assert own.keys() <= {"seed", *diffcps.Settings.names(), *algorithms.get(name).settings.names()}, own
    pack = tuple(Member(own["seed"], Values(known(own))) for own in members)
    trial = RunConfig("none", pack, algorithm=name, settings=Values(known(shared)))
    return Learner([Part(trial, SimpleNamespace(**data))], max_action)


def state(learner: Learner) -> dict[str, Tensor]:
    """What training changes, by concept: ``[K, …]``, or without dimensions where it is the same for all."""
    found = learner.pack.state()
    return {concept: found[name] for concept, name in STATE.items() if name in found}


def step(learner: Learner) -> dict[str, Tensor]:
    """Take one gradient step; its metrics, ``[K]``, by concept: the λ of the released dual is the one it has moved to."""
    found = learner.update(1)
    moved = found.pop("multiplier", None)
    return found if moved is None or learner.algorithm.config.dual != "released" else found | {"lambda": moved}


def act(learner: Learner, observations: NDArray[np.float32], candidates: int, actor: str) -> NDArray[np.float32]:
    """Actions ``[K, B, a]`` of all members at observations ``[B, o]``; member k draws from the stream of seed k."""
    generators = [torch.Generator().manual_seed(k) for k in range(learner.members)]
    states = [observations] * learner.members
    return np.stack(learner.policy().act(states, generators, candidates, actor))  # type: ignore[arg-type]


def draw(learner: Learner, kind: str) -> dict[str, Tensor]:
    """The random numbers of the next gradient step of that kind, by concept; the members' axis comes first."""
    found = engine.draw(learner.algorithm, learner.work, kind)
    named = {concept: found[name] for concept, name in DRAWS.items() if name in found}
    return {c: v.transpose(0, 1) if v.ndim == 4 else v for c, v in named.items() if v.numel()}


def random_streams(seeds: Sequence[int], purpose: int, step: int) -> dict[str, Tensor]:
    """Words, normal numbers and integers below 300 of each seed's stream at a step."""
    words = streams.words(streams.keys(seeds, purpose), torch.tensor(step), 18)
    return {"words": words, "normals": streams.normals(words), "integers": streams.integers(words, 300)}


def evaluate(task_name: str, candidates: int) -> Arrays:
    """Two untrained members, ten episodes in environments for six: reset seeds of the two rounds, and returns."""
    task, seeds = get_task(task_name), (3, 4)
    learner = make(
        {"diffusion_steps": 3, "hidden_size": 16, "time_embedding": 8},
        [{"seed": seed} for seed in seeds], made_up_data(task.observation_size, task.action_size), task.max_action,
    )  # fmt: skip
    config = EvaluationConfig(episodes=6, candidates=candidates)
    evaluator = Evaluator(task, task.physics, [Member(seed) for seed in seeds], config)
    evaluator.environments = seen = Resets(evaluator.environments)
    returns = evaluator(learner.policy(), index=3, episodes=10).returns
    return {"reset seeds": np.array(seen.seeds).reshape(2, 2, 6).swapaxes(0, 1), "returns": returns}


# What is computed -----------------------------------------------------------------------------------------------------


class Resets:
    """Environments that remember how they were reset."""

    def __init__(self, environments: Any) -> None:
        self.environments, self.seeds, self.step = environments, [], environments.step

    def reset(self, seeds: Sequence[int]) -> Any:
        self.seeds.append(list(seeds))
        return self.environments.reset(seeds)


def made_up_data(observation_size: int = OBSERVATION, action_size: int = ACTION) -> Arrays:
    """300 transitions in which actions depend on observations, and rewards on both; numbers of few digits."""
    rng = np.random.default_rng(20)
    observations = rng.normal(size=(300, observation_size)) * rng.uniform(0.3, 2.0, observation_size)
    noise = rng.normal(size=(300, action_size)) * rng.choice([0.05, 0.5], (300, 1))
    mean = observations @ rng.normal(size=(observation_size, action_size)) / 3
    actions = np.clip(mean + noise, -MAX_ACTION, MAX_ACTION)
    rows = {
        "observations": observations,
        "actions": actions,
        "rewards": np.abs(observations).sum(axis=1) - 3 * actions[:, 0] ** 2 + rng.exponential(size=300),
        "next_observations": observations + 0.3 * rng.standard_t(4, size=observations.shape),
        "terminals": rng.random(300) < 0.15,
    }
    return {name: np.round(value.astype(np.float64), 3).astype(np.float32) for name, value in rows.items()}


def settings_of(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The shared settings of a case, and its members'."""
    settings = CASES["shared"] | CASES["cases"][name]
    usual = "constrained" if settings.get("algorithm", "diffcps") == "diffcps" else "actor"
    return settings, CASES["packs"][settings.pop("pack", usual)]


def kind_at(settings: Mapping[str, Any], step: int) -> str:
    """What a gradient step moves."""
    if step % settings.get("policy_freq", 2):
        return "critic"
    clones = settings.get("algorithm") == "bc" or step < settings.get("behaviour_steps", 0)
    return "behaviour" if clones else "policy"


def learned(name: str, **changes: Any) -> Arrays:
    """Everything of a case, with some shared settings changed: ``[K, …]`` by what it is."""
    settings, members = settings_of(name)
    settings |= changes
    learner = make(settings, members, made_up_data(), MAX_ACTION)
    found: Arrays = {}
    for number in range(STEPS):
        kind = kind_at(settings, number)
        found |= {f"metric of a {kind} step: {metric}": value.numpy() for metric, value in step(learner).items()}
    for concept, value in state(learner).items():
        found[concept] = (value if value.ndim else value.expand(len(members))).numpy()
    states = np.linspace(-2, 2, 3 * OBSERVATION, dtype=np.float32).reshape(3, OBSERVATION)
    several = [] if settings.get("algorithm") == "bc" else [(5, "online")]
    for candidates, actor in [(1, "online"), (1, "average"), *several]:
        found[f"actions of the {actor} policy, of {candidates}"] = act(learner, states, candidates, actor)
    return found


def started(name: str) -> Arrays:
    """Weights before the first step of a case, and the random numbers of its ninth step, whatever its kind."""
    settings, members = settings_of(name)
    learner = make(settings, members, made_up_data(), MAX_ACTION)
    found = {f"initial {what}": state(learner)[what].numpy().copy() for what in ("policy", "critic")}
    for _ in range(8):
        step(learner)
    for kind in ("critic", "behaviour", "policy"):
        found |= {f"draws of a {kind} step: {what}": value.numpy() for what, value in draw(learner, kind).items()}
    return found


def drawn(purpose: int) -> Arrays:
    found = {}
    for number in (0, 7, 2**32 + 5):
        for what, value in random_streams((0, 3, 2**32 - 1), purpose, number).items():
            found[f"step {number}: {what}"] = value.numpy()
    return found


STARTS = (
    "diffcps diffusion", "diffcps mixture", "diffcps deterministic", "weighted gaussian", "covariance learned",
    "iwae calibrated", "max-Q backup", "other sizes",
)  # fmt: skip
KINDS = {
    "learning": (CASES["cases"], learned),
    "starts": (STARTS, started),
    "streams": (("1", "2"), lambda name: drawn(int(name))),
    "evaluations": (
        ("bandit-ring, 1", "bandit-ring, 5", "bandit-mixture-5x2, 5"),
        lambda name: evaluate(name.split(", ")[0], int(name.split(", ")[1])),
    ),
}
"""Names of the cases in each golden file, and what computes one."""


# Golden files ---------------------------------------------------------------------------------------------------------


def summary(value: NDArray[Any]) -> dict[str, Any]:
    """A checksum of all bytes, and for each member its numbers; of more than eight ``SHORTENED``."""
    rows = value.reshape(len(value), -1).astype(np.float64)
    if rows.shape[1] > 8:
        rows = np.stack([[row.size, row.sum(), np.linalg.norm(row), *row[:4], *row[-4:]] for row in rows])
    stored = value.astype(value.dtype.newbyteorder("<"))
    return {
        "bits": f"{zlib.crc32(stored.tobytes()):08x}",
        "numbers": [[float(f"{number:.8g}") for number in row] for row in rows],
    }


def deviation(what: str, found: Mapping[str, Any], golden: Mapping[str, Any]) -> float:
    """The largest difference of two summaries, relative to the number or to the typical one of its row.

    A metric may be a small difference of two numbers near 1, so it is compared to 1 at least. Infinite for other sizes
    and for what is no number.
    """
    largest = 0.0
    for ours, theirs in zip(found["numbers"], golden["numbers"], strict=True):
        if len(ours) != len(theirs):
            return math.inf
        size, norm = (theirs[0], theirs[2]) if len(theirs) == SHORTENED else (len(theirs), np.linalg.norm(theirs))
        typical = np.full(len(theirs), max(norm / np.sqrt(size), 1.0 if what.startswith("metric") else 1e-12))
        if len(theirs) == SHORTENED:
            typical[1:3] = max(norm, 1e-12)
        relative = np.abs(np.subtract(ours, theirs)) / np.maximum(np.abs(theirs), typical)
        largest = max(largest, float(relative.max() if np.isfinite(relative).all() else np.inf))
    return largest


def golden(kind: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{kind}.json").read_text())


def complete() -> Iterator[tuple[str, str, Arrays]]:
    """(golden file, case, everything in full)."""
    torch.set_num_threads(1)
    for kind, (names, compute) in KINDS.items():
        for name in names:
            yield kind, name, compute(name)


def write() -> None:
    short = functools.partial(json.dumps, separators=(",", ":"))
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, name, found in complete():
        rows = [f"  {json.dumps(what)}: {short(summary(value))}" for what, value in found.items()]
        lines[kind].append(f" {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n }")
    for kind, cases in lines.items():
        (FOLDER / f"{kind}.json").write_text("{\n" + ",\n".join(cases) + "\n}\n")


def show() -> None:
    """Which values differ in the last bit, and by how much; on another processor than the files' author's many do."""
    same = 0
    for kind, name, found in complete():
        for what, stored in golden(kind)[name].items():
            ours = summary(found[what])
            if ours["bits"] == stored["bits"]:
                same += 1
            else:
                print(f"{kind}, {name}, {what}: differs by {deviation(what, ours, stored):.1e}")
    print(f"{same} values are equal to the bit")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (names, _) in KINDS.items() for name in names])
def test_what_is_computed_is_what_was_computed(kind: str, name: str) -> None:
    found = KINDS[kind][1](name)
    for what, stored in golden(kind)[name].items():
        ours = summary(found[what])
        assert deviation(what, ours, stored) < TOLERANCE, f"{what}: {ours['numbers']} where it was {stored['numbers']}"


if __name__ == "__main__":
    write() if sys.argv[1:] == ["--write"] else show()
