"""The paper's ring as an environment of one step: act on the ring and be rewarded.

The behaviour is a = (cos θ + u, sin θ + u) with θ uniform and one shared u ~ U(0, .05): a unit circle, smeared along
the diagonal. Its support is every circle of radius 1 whose centre lies on the segment from (0, 0) to (.05, .05).
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

SMEAR = 0.05
"""Largest shift u of the circle along both axes."""
TOLERANCE = 0.05
"""An action is rewarded within this distance of the ring's support."""
BOUND = 1.1
"""Actions lie in [−BOUND, BOUND]²."""


def ring_actions(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``n`` actions of the behaviour, [n, 2]."""
    angle = rng.uniform(0, 2 * np.pi, n)
    shift = rng.uniform(0, SMEAR, n)
    return np.stack([np.cos(angle) + shift, np.sin(angle) + shift], axis=-1)


def distance_to_ring(actions: ArrayLike) -> NDArray[np.float64]:
    """Exact distance of points [..., 2] to the ring's support, [...].

    The distance of a point to one of the circles is |ρ − 1|, ρ its distance to that circle's centre. Over the segment
    of centres ρ takes every value between its smallest (at the projection onto the segment) and its largest (at an
    end), so the point lies on the support if 1 is among them, and else the nearer of the two decides.
    """
    points = np.asarray(actions, dtype=np.float64)
    along = np.clip(points.mean(axis=-1), 0, SMEAR)
    nearest = np.linalg.norm(points - along[..., None], axis=-1)
    farthest = np.maximum(np.linalg.norm(points, axis=-1), np.linalg.norm(points - SMEAR, axis=-1))
    return np.maximum(0, np.maximum(nearest - 1, 1 - farthest))


def ring_rewards(actions: ArrayLike) -> NDArray[np.float64]:
    """1 for actions [..., 2] within ``TOLERANCE`` of the ring's support, 0 for others, [...]."""
    return (distance_to_ring(actions) <= TOLERANCE).astype(np.float64)


class Ring(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The ring: observation [1], always 0; action [2] in [−1.1, 1.1]; every episode is one step."""

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-BOUND, BOUND, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The constant observation; nothing here is random."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Reward the action and end the episode."""
        reward = float(ring_rewards(np.clip(np.asarray(action), -BOUND, BOUND)))
        return np.zeros(1, np.float32), reward, True, False, {}
