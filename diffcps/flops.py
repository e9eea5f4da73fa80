"""The work of a gradient step and of an action, counted: floating-point operations of matrix products, 2·m·n·k each.

Counted as the equations are written and the yardstick computes them. A program that shares part of a product between
the steps of a chain does less; it is credited with the work, not with its way of doing it. Elementwise work is left out.
"""

from collections.abc import Sequence

from diffcps.config import AlgorithmConfig
from diffcps.nn import mlp

Sizes = Sequence[tuple[int, int]]
"""(inputs, outputs) of each linear layer."""


def forward(sizes: Sizes, rows: int) -> int:
    """A batch of ``rows`` through the layers."""
    return sum(2 * rows * fan_in * fan_out for fan_in, fan_out in sizes)


def backward(sizes: Sizes, rows: int, *, inputs: bool, weights: bool) -> int:
    """Gradients of the weights, and of the activations: those of the network's own inputs only if asked for."""
    through_weights = forward(sizes, rows) if weights else 0
    through_activations = forward(sizes, rows) if inputs else forward(sizes[1:], rows)
    return through_weights + through_activations


def networks(config: AlgorithmConfig, observation_size: int, action_size: int) -> tuple[Sizes, Sizes, Sizes]:
    """The layers of the time embedding, of the noise net after it, and of one critic head."""
    size, hidden = config.time_embedding, config.hidden_size
    time = (size, 2 * size), (2 * size, size)
    noise_net = mlp(action_size + size + observation_size, hidden, action_size)
    return time, noise_net, mlp(observation_size + action_size, hidden, 1)


def flops_per_member_step(config: AlgorithmConfig, observation_size: int, action_size: int) -> float:
    """One gradient step of one member: a critic step, and a policy step every ``policy_freq`` of them.

    Where a gradient is not needed it is not counted: of the critic's weights in the policy's loss, of the head there
    that is only a divisor, of what the network is fed.
    """
    time, noise_net, head = networks(config, observation_size, action_size)
    batch, steps = config.batch_size, config.diffusion_steps
    targets = batch * (config.max_q_candidates if config.max_q_backup else 1)

    critic_step = steps * (forward(time, targets) + forward(noise_net, targets))
    critic_step += 2 * (forward(head, targets) + forward(head, batch))
    critic_step += 2 * backward(head, batch, inputs=False, weights=True)

    # the noise net runs T times in the chain and once for the behaviour loss
    policy_step = (steps + 1) * (forward(time, batch) + forward(noise_net, batch))
    policy_step += (steps + 1) * backward(time, batch, inputs=False, weights=True)
    policy_step += (steps + 1) * backward(noise_net, batch, inputs=True, weights=True)
    policy_step += 2 * forward(head, batch) + backward(head, batch, inputs=True, weights=False)
    return critic_step + policy_step / config.policy_freq


def flops_per_action(config: AlgorithmConfig, observation_size: int, action_size: int, candidates: int) -> float:
    """Acting at one state: a chain and two critic heads for each candidate."""
    time, noise_net, head = networks(config, observation_size, action_size)
    chain = config.diffusion_steps * (forward(time, candidates) + forward(noise_net, candidates))
    return chain + 2 * forward(head, candidates)
