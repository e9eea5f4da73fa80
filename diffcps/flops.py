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


def components(config: AlgorithmConfig) -> int:
    """Actions that a policy step looks at for each observation: one for every Gaussian of a mixture."""
    return config.mixture_components if config.policy == "mixture" else 1


def networks(config: AlgorithmConfig, observation_size: int, action_size: int) -> tuple[Sizes, Sizes, Sizes]:
    """The layers of the time embedding, of the policy's network after it, and of one critic head."""
    size, hidden, layers = config.time_embedding, config.hidden_size, config.hidden_layers
    head = mlp(observation_size + action_size, hidden, 1, layers)
    if config.policy != "diffusion":
        outputs = action_size if config.policy == "deterministic" else components(config) * (2 * action_size + 1)
        return (), mlp(observation_size, hidden, outputs, layers), head
    time = (size, 2 * size), (2 * size, size)
    outputs = action_size * (2 if config.covariance in ("interpolated", "learned") else 1)
    return time, mlp(action_size + size + observation_size, hidden, outputs, layers), head


def flops_per_member_step(
    config: AlgorithmConfig, observation_size: int, action_size: int, *, cloning: bool = False
) -> float:
    """One gradient step of one member: a critic step, and a policy step every ``policy_freq`` of them.

    Where a gradient is not needed it is not counted: of the critic's weights in the policy's loss, of the head there
    that is only a divisor, of what the network is fed. ``cloning``: in a step of behaviour cloning no action is drawn for
    the policy's loss.
    """
    time, policy, head = networks(config, observation_size, action_size)
    batch, critics = config.batch_size, config.algorithm != "bc"
    improving = critics and not cloning
    chain = config.diffusion_steps if config.policy == "diffusion" else 1
    targets = batch * _next_actions(config)

    critic_step = chain * (forward(time, targets) + forward(policy, targets)) + 2 * forward(head, targets)
    if critics:
        critic_step += 2 * forward(head, batch) + 2 * backward(head, batch, inputs=False, weights=True)
    # the network runs T times in the chain, and once to explain an action, or once for each step of every path
    explained = config.constraint_samples * chain if config.constraint in ("iwae", "renyi") else 1
    runs = explained + (chain if improving and config.algorithm == "diffcps" else 0)
    policy_step = runs * (forward(time, batch) + forward(policy, batch))
    policy_step += runs * backward(time, batch, inputs=False, weights=True)
    policy_step += runs * backward(policy, batch, inputs=True, weights=True)
    if config.held_policy == "average" and improving:
        policies = 2 if config.behaviour_steps else 1
        policy_step += policies * explained * (forward(time, batch) + forward(policy, batch))
    if config.algorithm == "diffcps" and improving:
        own = batch * components(config)
        policy_step += 2 * forward(head, own) + backward(head, own, inputs=True, weights=False)
    elif config.algorithm == "awr" and improving:
        own = batch * config.max_q_candidates
        policy_step += chain * (forward(time, own) + forward(policy, own)) + 2 * forward(head, own + batch)
    return critic_step + policy_step / config.policy_freq


def network_runs(config: AlgorithmConfig, *, cloning: bool = False) -> float:
    """How often one after the other the policy's network is run in a gradient step, forwards, on average."""
    chain = config.diffusion_steps if config.policy == "diffusion" else 1
    explained = chain if config.constraint in ("iwae", "renyi") else 1
    proposed = 0 if cloning or config.algorithm == "bc" else chain
    if config.held_policy == "average" and not cloning:
        explained *= 3 if config.behaviour_steps else 2
    return (chain if _next_actions(config) else 0) + (explained + proposed) / config.policy_freq


def _next_actions(config: AlgorithmConfig) -> int:
    """Actions that are drawn for each next state in a critic step."""
    if config.algorithm == "bc" or config.discount == 0.0:
        return 0
    return config.max_q_candidates if config.max_q_backup else 1


def flops_per_action(config: AlgorithmConfig, observation_size: int, action_size: int, candidates: int) -> float:
    """Acting at one state: a chain and two critic heads for each candidate."""
    time, policy, head = networks(config, observation_size, action_size)
    steps = config.diffusion_steps if config.policy == "diffusion" else 1
    chain = steps * (forward(time, candidates) + forward(policy, candidates))
    return chain + 2 * forward(head, candidates)
