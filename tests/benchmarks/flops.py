"""A yardstick for ``cost``: operations of matrix products as a formula, 2·m·n·k each, for DiffCPS, weighted cloning and BC.

Counted as the equations are written and the yardstick computes them. A program that shares part of a product between the
steps of a chain does less; it is credited with the work, not with its way of doing it. Elementwise work is left out.
"""

from collections.abc import Sequence

from diffcps.algorithms.nn import mlp
from diffcps.config import RunConfig

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


def components(trial: RunConfig) -> int:
    """Actions that a policy step looks at for each observation: one for every Gaussian of a mixture."""
    return trial.value("mixture_components") if trial.value("policy") == "mixture" else 1


def networks(trial: RunConfig, observation_size: int, action_size: int) -> tuple[Sizes, Sizes, Sizes]:
    """The layers of the time embedding, of the policy's network after it, and of one critic head."""
    size, hidden, layers = trial.value("time_embedding"), trial.value("hidden_size"), trial.value("hidden_layers")
    head = mlp(observation_size + action_size, hidden, 1, layers)
    if trial.value("policy") != "diffusion":
        outputs = action_size if trial.value("policy") == "deterministic" else components(trial) * (2 * action_size + 1)
        return (), mlp(observation_size, hidden, outputs, layers), head
    time = (size, 2 * size), (2 * size, size)
    outputs = action_size * (2 if trial.value("covariance") in ("interpolated", "learned") else 1)
    return time, mlp(action_size + size + observation_size, hidden, outputs, layers), head


def flops_per_member_step(trial: RunConfig, observation_size: int, action_size: int, *, cloning: bool = False) -> float:
    """One gradient step of one member: a critic step, and a policy step every ``policy_freq`` of them.

    Where a gradient is not needed it is not counted: of the critic's weights in the policy's loss, of the head there
    that is only a divisor, of what the network is fed. ``cloning``: in a step of behaviour cloning no action is drawn for
    the policy's loss.
    """
    time, policy, head = networks(trial, observation_size, action_size)
    batch, critics = trial.value("batch_size"), trial.algorithm != "bc"
    improving = critics and not cloning
    chain = trial.value("diffusion_steps") if trial.value("policy") == "diffusion" else 1
    targets = batch * _next_actions(trial)

    critic_step = chain * (forward(time, targets) + forward(policy, targets)) + 2 * forward(head, targets)
    if critics:
        critic_step += 2 * forward(head, batch) + 2 * backward(head, batch, inputs=False, weights=True)
    # the network runs T times in the chain, and once to explain an action, or once for each step of every path
    explained = trial.value("constraint_samples") * chain if trial.value("constraint") in ("iwae", "renyi") else 1
    runs = explained + (chain if improving and trial.algorithm == "diffcps" else 0)
    policy_step = runs * (forward(time, batch) + forward(policy, batch))
    policy_step += runs * backward(time, batch, inputs=False, weights=True)
    policy_step += runs * backward(policy, batch, inputs=True, weights=True)
    if trial.value("constraint_policy") == "average" and improving:
        policies = 2 if trial.value("behaviour_steps") else 1
        policy_step += policies * explained * (forward(time, batch) + forward(policy, batch))
    if trial.algorithm == "diffcps" and improving:
        own = batch * components(trial)
        policy_step += 2 * forward(head, own) + backward(head, own, inputs=True, weights=False)
    elif trial.algorithm == "weighted" and improving:
        own = batch * trial.value("max_q_candidates")
        runs = own if trial.value("policy") == "diffusion" else batch  # the others' draws share one run of the network
        policy_step += chain * (forward(time, runs) + forward(policy, runs)) + 2 * forward(head, own + batch)
    return critic_step + policy_step / trial.value("policy_freq")


def _next_actions(trial: RunConfig) -> int:
    """Actions that are drawn for each next state in a critic step."""
    if not trial.value("discount"):
        return 0
    return trial.value("max_q_candidates") if trial.value("max_q_backup") else 1


def flops_per_action(trial: RunConfig, observation_size: int, action_size: int, candidates: int) -> float:
    """Acting at one state: two critic heads for each candidate, and a chain for each or one run of another policy for all."""
    time, policy, head = networks(trial, observation_size, action_size)
    diffusion = trial.value("policy") == "diffusion"
    steps, runs = (trial.value("diffusion_steps"), candidates) if diffusion else (1, 1)
    return steps * (forward(time, runs) + forward(policy, runs)) + 2 * forward(head, candidates)
