"""The two profiles: what the paper's released program does, and what its equations ask for.

A profile is nothing but settings, each of which can also be set by itself; its name stays in the trial and in every report.
"""

from typing import Any

from diffcps.config import AlgorithmConfig, EvaluationConfig, MemberConfig, Profile, RunConfig
from diffcps.tasks.registry import task_of

SLACK = 0.1
"""δ of the principled profile: the behaviour loss may be a tenth above what behaviour cloning reaches, on every task."""
CLONING = 100_000
"""Gradient steps of behaviour cloning before κ is read: a tenth of the trial where that is more, half of it where even that
is less. On 60 000 rows of Hopper its loss fell by a tenth over the last 11 000 of 30 000."""
FINAL_EPISODES = 100
"""Least number of episodes by which the last checkpoint is judged."""


def settings(trial: RunConfig) -> tuple[AlgorithmConfig, MemberConfig, EvaluationConfig]:
    """The settings that the trial's profile gives its task, for as many steps as the trial has."""
    task = task_of(trial)
    chain = trial.algorithm.policy == "diffusion"
    algorithm = task.algorithm if chain else task.algorithm.replaced(policy=trial.algorithm.policy)
    algorithm, member, evaluation = profiled(trial.profile, algorithm, task.member, task.evaluation, trial.steps)
    return algorithm.replaced(policy=task.algorithm.policy), member, evaluation


def profiled(
    profile: Profile, algorithm: AlgorithmConfig, member: MemberConfig, evaluation: EvaluationConfig, steps: int
) -> tuple[AlgorithmConfig, MemberConfig, EvaluationConfig]:
    """A task's own settings (the official ones) under a profile.

    ``principled``: the reverse variance is calibrated, and the last step takes its noise, so that the policy that acts is
    the one whose likelihood is bounded; the first tenth of the steps, but ``CLONING`` of them or half where a tenth is
    less, clones the behaviour, and κ is (1 + δ)·L_BC; λ starts at 1, moves a hundred times faster than released and is
    projected on [0, λ_max]; and the last checkpoint is judged by at least 100 episodes.
    """
    if profile == "official":
        return algorithm, member, evaluation
    chain = {"covariance": "calibrated", "last_step_noise": True} if algorithm.policy == "diffusion" else {}
    algorithm = algorithm.replaced(
        **chain,
        dual="projected",
        lambda_learning_rate=3e-3,
        # an L_BC read too early lies far above what can be reached: κ would hold nothing
        behaviour_steps=max(4 * algorithm.policy_freq, steps // 10, min(CLONING, steps // 2)),
    )
    member = member.replaced(slack=SLACK, lambda_init=1.0, lambda_clip=0.0)
    return algorithm, member, evaluation.replaced(final_episodes=max(FINAL_EPISODES, evaluation.episodes))


def under(trial: RunConfig, profile: Profile) -> RunConfig:
    """A trial of the official profile under another one: what that profile says is changed, all else and the seeds stay.

    Raises ``ValueError`` for a trial of another profile, whose official settings are not known any more.
    """
    if trial.profile != "official":
        raise ValueError(f"{trial.key} is under the {trial.profile} profile already")
    parts = [profiled(profile, trial.algorithm, member, trial.evaluation, trial.steps) for member in trial.members]
    algorithm, _, evaluation = parts[0]
    members = tuple(member for _, member, _ in parts)
    return trial.replaced(profile=profile, algorithm=algorithm, members=members, evaluation=evaluation)


def changed_settings(trial: RunConfig) -> list[str]:
    """Settings of a trial that differ from what its profile gives its task (for the tasks of the paper and the official
    profile: from the paper's), e.g. ``hidden_size 128``.

    Seeds and steps are left out: a table has columns for them.
    """
    algorithm, member, evaluation = settings(trial)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (vars(algorithm), vars(trial.algorithm)),
        (_renamed(vars(evaluation)), _renamed(vars(trial.evaluation))),
    ]
    pairs += [(vars(member) | {"seed": own.seed}, vars(own)) for own in trial.members]
    different = [(key, new[key]) for old, new in pairs for key in new if new[key] != old[key]]
    changed = [
        f"{key} {value if value is None or isinstance(value, str) else format(value, 'g')}" for key, value in different
    ]
    return list(dict.fromkeys(changed))


def _renamed(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {{"every": "evaluate_every"}.get(key, key): value for key, value in evaluation.items()}
