"""The diffusion policy: actions from a chain of T denoising steps, under any of its reverse variances."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffcps.algorithms.base import Problem
from diffcps.algorithms.diffusion import (
    Denoiser,
    add_noise,
    carry,
    one_hot,
    path_log_weights,
    prior_divergence,
    renyi_bound,
    reverse_chain,
    step_divergence,
    variance_preserving,
)
from diffcps.algorithms.nn import NoiseNet
from diffcps.algorithms.policies import Fit, Noised, Weights
from diffcps.algorithms.settings import Cloning


class ChainPolicy:
    """Implements ``policies.Policy`` by the reverse chain of ``diffusion``."""

    def __init__(self, config: Cloning, problem: Problem, product: torch.dtype | None, device: torch.device) -> None:
        self.config = config
        self.max_action = problem.max_action
        self.action_size = action_size = problem.action_size
        steps = config.diffusion_steps
        self.schedule = variance_preserving(steps, config.beta_min, config.beta_max).to(device)
        self.own_variance = config.covariance in ("interpolated", "learned")
        """Whether the network gives a variance too."""
        self.noise_net = NoiseNet(
            problem.observation_size,
            action_size,
            steps,
            config.hidden_size,
            embedding=config.time_embedding,
            product=product,
            layers=config.hidden_layers,
            outputs=action_size * (2 if self.own_variance else 1),
        ).to(device)
        self.layout = self.noise_net.layout
        self.draws = steps + config.last_step_noise
        self.paths = config.constraint_samples if config.constraint in ("iwae", "renyi") else 0
        self.noise_width = action_size * (self.paths * steps if self.paths else 1)

    def denoiser(self, weights: Weights, observations: Tensor) -> Denoiser:
        """ε_θ and the reverse variance at observations ``[K, B, o]``, for noisy actions ``[K, B·n, a]``."""
        time = self.noise_net.time(weights.layers).split(1, dim=1)
        observed = self.noise_net.observe(weights.layers, observations)
        layers = self.noise_net.passed(weights.layers)
        fixed = None if self.own_variance else self._fixed_variance(weights.step_losses)

        def denoise(actions: Tensor, step: int) -> tuple[Tensor, Tensor]:
            output = self.noise_net(layers, actions, observed + time[step])
            if fixed is not None:
                return output, fixed[step] if fixed.ndim == 1 else fixed[:, step, None, None]
            noise, raw = output.chunk(2, dim=-1)
            which = torch.full(raw.shape[:-1], step, device=raw.device)
            return noise, self._variance_of(raw, which)

        return denoise

    def sample(self, weights: Weights, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``policies.Policy``: the whole chain, differentiable through all T steps."""
        return reverse_chain(self.denoiser(weights, observations), self.schedule, noise, self.max_action)

    def carry(self, weights: Weights, observations: Tensor, noise: Tensor) -> Tensor:
        """Where the chain carries noise ``[K, B, a]``; see ``diffusion.carry``."""
        return carry(self.denoiser(weights, observations), self.schedule, noise, self.max_action)

    def proposals(self, weights: Weights, observations: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        """See ``policies.Policy``: one action each.

        No value has a gradient in the network's own variance where C does not depend on it: it would vanish.
        """
        denoise = self.denoiser(weights, observations)

        def fixed(actions: Tensor, step: int) -> tuple[Tensor, Tensor]:
            predicted, variance = denoise(actions, step)
            return predicted, variance.detach()

        free = self.own_variance and self.config.constraint != "behaviour_loss"
        return reverse_chain(denoise if free else fixed, self.schedule, noise, self.max_action), None

    def fit(self, weights: Weights, observations: Tensor, actions: Tensor, step: Tensor, noise: Tensor) -> Fit:
        """See ``policies.Policy``: by the error of the predicted noise at one step, or by paths through all of them."""
        own_noise = noise[..., : self.action_size]
        noisy = add_noise(self.schedule, actions, step, own_noise)
        which = one_hot(step, self.schedule.steps, noisy.dtype)
        layers = weights.layers
        observed = self.noise_net.observe(layers, observations) + which @ self.noise_net.time(layers)
        output = self.noise_net(layers, noisy, observed)
        predicted, raw = output.chunk(2, dim=-1) if self.own_variance else (output, None)
        errors = (own_noise - predicted).square()
        variance = self._variance_at(raw, step, weights.step_losses)
        rows = errors.mean(dim=2)
        with torch.no_grad():
            sums = (which.mT @ rows.detach()[..., None]).squeeze(-1)
        noised = Noised(noisy, predicted, self.schedule.alpha_bar[step].unsqueeze(-1))
        fit = Fit(rows, rows.detach().mean(dim=1), step_losses=sums, step_counts=which.sum(dim=1), noised=noised)
        match self.config.constraint:
            case "behaviour_loss" if self.own_variance:
                # the behaviour loss is for the mean (Nichol and Dhariwal, 2021): here the variance learns alone
                loss = step_divergence(self.schedule, step, errors.detach(), variance).mean(dim=1)
                return fit._replace(variance_loss=loss)
            case "behaviour_loss":
                return fit
            case "elbo":
                terms = step_divergence(self.schedule, step, errors, variance)
                start = prior_divergence(self.schedule, actions)
                return fit._replace(rows=start + self.schedule.steps * terms)
            case "iwae" | "renyi":
                order = self.config.renyi_order if self.config.constraint == "renyi" else 0.0
                return fit._replace(rows=self._path_bound(weights, observations, actions, noise, order=order))

    def _path_bound(
        self, weights: Weights, observations: Tensor, actions: Tensor, noise: Tensor, order: float
    ) -> Tensor:
        """−log μ(a|s) from above, ``[K, B]``, by S paths for each action."""
        members, batch, size = actions.shape
        draws = noise.view(members, batch * self.paths, self.schedule.steps, size).movedim(2, 0)
        repeated = actions.repeat_interleave(self.paths, dim=1)
        denoise = self.denoiser(weights, observations)
        log_weights = path_log_weights(denoise, self.schedule, repeated, draws, max_action=self.max_action)
        return -renyi_bound(log_weights.view(members, batch, self.paths), order)

    def _fixed_variance(self, step_losses: Tensor | None) -> Tensor:
        """The reverse variance of each step, ``[T]``, or ``[K, T]`` where members differ."""
        match self.config.covariance:
            case "forward":
                return self.schedule.beta
            case "calibrated":
                assert step_losses is not None
                return self.schedule.posterior_variance + self.schedule.covariance_coefficient * step_losses
            case _:
                return self.schedule.posterior_variance

    def _variance_at(self, raw: Tensor | None, step: Tensor, step_losses: Tensor | None) -> Tensor:
        """The reverse variance at steps ``[K, B]``, of a shape that broadcasts to ``[K, B, a]``."""
        if raw is not None:
            return self._variance_of(raw, step)
        fixed = self._fixed_variance(step_losses)
        return (fixed[step] if fixed.ndim == 1 else fixed.gather(1, step))[..., None]

    def _variance_of(self, raw: Tensor, step: Tensor) -> Tensor:
        """The network's own variance from its raw output ``[K, B, a]`` at steps ``[K, B]``.

        ``learned``: β̃ + c r with r > 0 in the place of the error that a calibrated covariance averages over states and
        dimensions. ``interpolated``: between β̃ and β on the logarithmic scale (Nichol and Dhariwal, 2021).
        """
        schedule = self.schedule
        if self.config.covariance == "learned":
            weight = schedule.covariance_coefficient[step][..., None]
            return schedule.posterior_variance[step][..., None] + weight * softplus(raw)
        low, high = schedule.posterior_variance.clone(), schedule.beta
        low[0] = schedule.posterior_variance[1] if schedule.steps > 1 else schedule.beta[0]
        part = raw.sigmoid()
        return (part * high.log()[step][..., None] + (1.0 - part) * low.log()[step][..., None]).exp()
