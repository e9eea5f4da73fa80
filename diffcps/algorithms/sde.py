"""Diffusion in continuous time: the variance-preserving noise schedule, and a solver of the equation that undoes it.

a_t = α_t a_0 + σ_t ε for t from 0 to 1, with the rate of noise rising from 0.1 to 20 (Song et al., 2021, arXiv 2011.13456).
DPM-Solver (Lu et al., 2022, arXiv 2206.00927) carries noise at t = 1 to an action near t = 0, without further noise.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

RATES = 0.1, 20.0
"""The rate of noise at t = 0 and at t = 1."""
END = 1e-3
"""The time at which a solution ends; at 0 there is no noise left to predict."""
Prediction = Literal["noise", "start"]
"""What a solver takes as smooth in time: the noise (DPM-Solver) or the action that it implies (DPM-Solver++)."""
Predictor = Callable[[Tensor, float], Tensor]
"""``(a_t [..., a], t) -> predicted noise [..., a]``."""


def log_signal(time: Tensor) -> Tensor:
    """log α_t, elementwise."""
    low, high = RATES
    return -0.25 * (high - low) * time.square() - 0.5 * low * time


def signal_and_noise(time: Tensor) -> tuple[Tensor, Tensor]:
    """α_t and σ_t = √(1 − α_t²), elementwise."""
    log_alpha = log_signal(time)
    return log_alpha.exp(), (-torch.expm1(2.0 * log_alpha)).sqrt()


def add_noise(actions: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """a_t for actions and noise ``[..., a]`` and times ``[...]``."""
    alpha, sigma = signal_and_noise(time.unsqueeze(-1))
    return alpha * actions + sigma * noise


def orders(calls: int, order: int) -> list[int]:
    """The order of each step of a solution that calls the network so often; their sum is ``calls``.

    As many steps of the highest order as fit, and the last ones of lower order, where the equation is stiff.
    """
    whole, rest = divmod(calls, order)
    if rest == 0 and whole and order > 1:
        return [order] * (whole - 1) + ([1, 1] if order == 2 else [2, 1])
    return [order] * whole + [rest] * (rest > 0)


def times(calls: int) -> list[float]:
    """The times at which a solution calls the network, from 1 downwards, at equal distances."""
    return [1.0 + (END - 1.0) * number / calls for number in range(calls)]


def solve(predict: Predictor, noise: Tensor, calls: int, order: int, prediction: Prediction = "noise") -> Tensor:
    """Carry ``noise`` ``[..., a]`` from t = 1 to ``END``, at ``times``.

    Args:
        predict: the noise net.
        noise: standard normal.
        calls: of ``predict``.
        order: the highest order of a step, 1 to 3.
        prediction: what is taken as smooth.

    Returns:
        ``[..., a]``, not kept within any bound.
    """
    points = [*times(calls), END]
    x, first = noise, 0
    for own in orders(calls, order):
        x = _step(predict, x, points[first : first + own + 1], prediction)
        first += own
    return x


def _step(predict: Predictor, x: Tensor, times: list[float], prediction: Prediction) -> Tensor:
    """From the first to the last of two to four times, by a step of order one to three.

    With x / p as the unknown and η as time, d(x / p) / dη = −(q / p) m for the prediction m: p = α and q = σ for noise, the
    other way round for the start.
    """
    points = [_Point(time, prediction) for time in times]
    start, end, length = points[0], points[-1], points[-1].eta - points[0].eta

    def model(x: Tensor, at: _Point) -> Tensor:
        found = predict(x, at.time)
        return found if prediction == "noise" else (x - at.sigma * found) / at.alpha

    def line(to: _Point, first: Tensor) -> Tensor:
        return to.p / start.p * x - to.q * math.expm1(to.eta - start.eta) * first

    first = model(x, start)
    if len(points) == 2:
        return line(end, first)
    shares = [(point.eta - start.eta) / length for point in points[1:-1]]
    second = model(line(points[1], first), points[1])
    if len(points) == 3:
        return line(end, first) - 0.5 / shares[0] * end.q * math.expm1(length) * (second - first)
    bend = shares[1] / shares[0] * points[2].q * _curvature(shares[1] * length)
    third = model(line(points[2], first) - bend * (second - first), points[2])
    return line(end, first) - end.q * _curvature(length) / shares[1] * (third - first)


def _curvature(length: float) -> float:
    """(e^h − 1) / h − 1."""
    return math.expm1(length) / length - 1.0


class _Point:
    """The schedule at a time, in double precision."""

    def __init__(self, time: float, prediction: Prediction) -> None:
        log_alpha = float(log_signal(torch.tensor(time, dtype=torch.float64)))
        self.time = time
        self.alpha, self.sigma = math.exp(log_alpha), math.sqrt(-math.expm1(2.0 * log_alpha))
        half_log_snr = log_alpha - math.log(self.sigma)
        noise = prediction == "noise"
        self.eta = half_log_snr if noise else -half_log_snr
        self.p, self.q = (self.alpha, self.sigma) if noise else (self.sigma, self.alpha)
