"""The measures ``fqe`` and ``critic``: what a policy is worth by its data alone, without an environment.

``fqe`` is fitted Q evaluation (Le, Voloshin and Yue, 2019, arXiv 1903.08738): a new Q is fitted to the frozen policy, so policies
of every algorithm are measured in the same way. ``critic`` asks the critic that the policy has learned with.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcps.algorithms import rewards
from diffcps.algorithms.adam import Adam
from diffcps.algorithms.nn import gradient
from diffcps.algorithms.value_nets import Critic
from diffcps.data.hold_out import beginnings
from diffcps.data.transitions import Transitions
from diffcps.training.learner import on_device
from diffcps.training.measures.subject import Subject

ROWS = 20_000
"""Transitions that a Q is fitted to, at most: the policy acts once after each."""
AT_ONCE = 500
"""States in which a policy acts, or Q is asked, at a time: its candidates' noise is all drawn before."""
STARTS = 500
"""First states of trajectories that the value is averaged over, at most."""
TOGETHER = 20
"""Policies whose Q are fitted as one pack, at most: each has its own transitions in memory."""
STEPS, BATCH, WIDTH, RATE = 6000, 256, 128, 1e-3
"""Of the fitted Q, the same for every policy."""
TARGET_RATE = 0.05
"""Polyak rate of the target: after ``STEPS`` steps e^-3 of the way to the fixed point is left at γ = .99, for every policy."""
DISCOUNT = 0.99
"""γ of the fitted Q, the same for every policy: values of two γ cannot be compared."""
_PATIENCE = 100
"""Steps between two signs of life."""


class Experience(NamedTuple):
    """Transitions on which K frozen policies have acted; see ``fit``."""

    states: Tensor
    """``[K, N, o]``."""
    actions: Tensor
    """``[K, N, a]``."""
    rewards: Tensor
    """``[K, N]``."""
    continues: Tensor
    """``[K, N]``, 0 where the episode ended for good."""
    next_states: Tensor
    """``[K, N, o]``."""
    next_actions: Tensor
    """``[K, N, a]``, those of the policies."""

    def td_target(self, values: Callable[[Tensor, Tensor], Tensor], discount: float) -> Tensor:
        """r + γ (1 − terminal) Q(s', a') ``[K, N]``."""
        return self.rewards + discount * self.continues * values(self.next_states, self.next_actions)

    def rows(self, chosen: Tensor) -> "Experience":
        """Each member's own ``[K, n]`` of the transitions; all parts must have K members."""
        members = torch.arange(len(chosen), device=chosen.device)[:, None]
        return Experience(*(part[members, chosen] for part in self))


def fqe(subjects: Sequence[Subject]) -> list[dict[str, float]]:
    """See ``MEASURES``: E Q(s_0, a) over first states and actions of the policy, in the unit of rewards, discounted by .99.

    Also the root mean squared error of Q to r + γ Q(s', a') on the data that were held out, if any were, over the spread of Q.
    The Q of all policies, of at most ``TOGETHER`` at once, are fitted as one pack.
    """
    found: list[dict[str, float]] = []
    for first in range(0, len(subjects), TOGETHER):
        found += _of_pack(subjects[first : first + TOGETHER])
    return found


def _of_pack(subjects: Sequence[Subject]) -> list[dict[str, float]]:
    """``fqe`` of the policies of one pack."""
    alone = [_Alone(subject) for subject in subjects]
    units = [one.unit for one in alone]
    states, actions = (torch.cat(parts) for parts in zip(*(one.starts for one in alone), strict=True))
    problem = _stacked([one.problem for one in alone])
    held_out = [one.held_out for one in alone if one.held_out is not None]
    del alone  # its transitions would be in memory twice
    generators = [subject.generator("fit") for subject in subjects]
    fitted = fit(problem, DISCOUNT, generators, heartbeat=subjects[0].heartbeat, steps=STEPS)
    values = fitted(states, actions).mean(dim=1)
    found = [{"fqe_value": unit * float(value)} for unit, value in zip(units, values, strict=True)]
    if held_out:
        problem = _stacked(held_out)
        values_of = partial(_in_parts, fitted)
        errors = _error(values_of(problem.states, problem.actions), problem.td_target(values_of, DISCOUNT))
        found = [one | {"fqe_error": float(error)} for one, error in zip(found, errors, strict=True)]
    return found


def _in_parts(values: Callable[[Tensor, Tensor], Tensor], states: Tensor, actions: Tensor) -> Tensor:
    """Values ``[K, N]``, of ``AT_ONCE`` states at a time: layers of all of them would take memory."""
    parts = zip(states.split(AT_ONCE, dim=1), actions.split(AT_ONCE, dim=1), strict=True)
    return torch.cat([values(*part) for part in parts], dim=1)


def _stacked(problems: Sequence[Experience]) -> Experience:
    """Those of single policies as one of all."""
    return Experience(*(torch.cat(parts) for parts in zip(*problems, strict=True)))


class _Alone:
    """What the Q of one policy is fitted to and asked for: the policy has acted."""

    def __init__(self, subject: Subject) -> None:
        rng, data = subject.numpy_generator("fqe"), subject.dataset
        chosen = _some(data, rng)
        starts = data.observations[_chosen(beginnings(data, subject.task.terminals_end), STARTS, rng)]
        self.unit = float(np.abs(chosen.rewards).mean()) or 1.0
        device = subject.policy.algorithm.device
        acts = partial(self._act, subject)
        self.problem = _problem(chosen, acts, device, self.unit)
        self.starts = torch.from_numpy(starts).to(device)[None], acts(starts)
        self.held_out: Experience | None = None
        if subject.held_out is not None:
            self.held_out = _problem(_some(subject.held_out, rng), acts, device, self.unit)

    @staticmethod
    def _act(subject: Subject, observations: NDArray[np.float32]) -> Tensor:
        """``[1, N, a]``."""
        own, config, parts = subject.generator("fqe"), subject.config.evaluation, []
        for first in range(0, len(observations), AT_ONCE):
            subject.heartbeat()
            parts += subject.policy.act([observations[first : first + AT_ONCE]], [own], config.candidates, config.actor)
        return torch.from_numpy(np.concatenate(parts)).to(subject.policy.algorithm.device)[None]


def critic(subject: Subject) -> dict[str, float]:
    """See ``MEASURES``: the smaller of the target's heads at first states and actions of the policy, and its error.

    The error is that of Q to r + γ (1 − terminal) Q(s', a'), a' the policy's own action, on data that were held out if any were,
    else on those that were learned from; root mean square, over the spread of Q.
    """
    algorithm, rng = subject.policy.algorithm, subject.numpy_generator("critic")
    assert algorithm.judge is not None
    layers = algorithm.critic.layers(subject.policy.parameters[algorithm.judge])
    actor, generator = subject.config.evaluation.actor, subject.generator("critic")

    def acts(observations: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(subject.policy.act([observations], [generator], 1, actor)[0]).to(algorithm.device)[None]

    def values(states: Tensor, actions: Tensor) -> Tensor:
        return algorithm.critic(layers, subject.observed(states[0])[None], actions).amin(dim=1)

    starts = subject.dataset.observations[_chosen(beginnings(subject.dataset, subject.task.terminals_end), STARTS, rng)]
    found = values(torch.from_numpy(starts).to(algorithm.device)[None], acts(starts)).mean()
    data = subject.dataset if subject.held_out is None else subject.held_out
    scale, shift = rewards.scale_and_shift(
        algorithm.config.reward_transform, on_device(subject.dataset, torch.device("cpu"))
    )
    problem = _problem(_some(data, rng), acts, algorithm.device, 1.0)
    problem = problem._replace(rewards=scale * problem.rewards + shift)
    error = _error(values(problem.states, problem.actions), problem.td_target(values, _discount(subject)))
    return {"critic_value": float(found), "critic_error": float(error)}


def _error(values: Tensor, goals: Tensor) -> Tensor:
    """Root mean squared error ``[K]`` over the spread of the values, all ``[K, N]``."""
    return (values - goals).square().mean(dim=1).sqrt() / values.std(dim=1).clamp(min=1e-6)


@torch.enable_grad()
def fit(
    problem: Experience,
    discount: float,
    generators: Sequence[torch.Generator],
    heartbeat: Callable[[], None] = lambda: None,
    steps: int = STEPS,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Fitted Q evaluation of K frozen policies, each with its own generator.

    Returns:
        Q: a function of states ``[K, n, o]`` and actions ``[K, n, a]``, ``[K, n]``.
    """
    members, count, size = problem.states.shape
    device = problem.states.device
    net = Critic(size, problem.actions.shape[2], WIDTH, heads=1)
    first = [torch.Generator().manual_seed(int(generator.initial_seed())) for generator in generators]
    parameters = net.initial(first).to(device)
    target, adam = parameters.clone(), Adam.create(parameters, torch.full((members,), RATE, device=device))

    def values(states: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            return net(net.layers(target), states, actions)[:, 0]

    for step in range(steps):
        drawn = [torch.randint(count, (min(BATCH, count),), generator=own, device=device) for own in generators]
        batch = problem.rows(torch.stack(drawn))
        leaves = net.leaves(parameters)
        loss = (net(leaves, batch.states, batch.actions)[:, 0] - batch.td_target(values, discount)).square().mean(dim=1)
        adam.step(parameters, gradient(loss, leaves).view_as(parameters))
        target.lerp_(parameters, TARGET_RATE)
        if step % _PATIENCE == 0:
            heartbeat()
    return values


def _discount(subject: Subject) -> float:
    """The member's γ."""
    own = {**subject.config.settings, **subject.member.settings}
    found = own.get("discount", DISCOUNT)
    assert isinstance(found, (int, float))
    return float(found)


def _problem(
    data: Transitions, acts: Callable[[NDArray[np.float32]], Tensor], device: torch.device, unit: float
) -> Experience:
    """Rewards in units of ``unit``."""
    states, actions, rewards, following, terminals = (
        torch.from_numpy(np.ascontiguousarray(getattr(data, name), dtype=np.float32)).to(device)[None]
        for name in ("observations", "actions", "rewards", "next_observations", "terminals")
    )
    return Experience(
        states=states,
        actions=actions,
        rewards=rewards / unit,
        continues=1.0 - terminals,
        next_states=following,
        next_actions=acts(data.next_observations),
    )


def _chosen(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _some(data: Transitions, rng: np.random.Generator) -> Transitions:
    return data.rows(_chosen(np.arange(len(data)), ROWS, rng))
