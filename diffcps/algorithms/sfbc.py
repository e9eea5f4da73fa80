"""Selecting from behaviour candidates (Chen et al., 2023, arXiv 2209.14548): a cloned policy, and values by planning in the data.

A continuous-time diffusion model clones the data. Then a value network is fitted, K times from the start, to returns of the
data's own trajectories. Between two fits the returns are planned again: from the end of each trajectory backwards they follow
the data, unless the behaviour model's actions are worth more in that state. As in the authors' program the comparison is with
the value of the same state, and a return ends where a trajectory ends, by a terminal or not. It acts by drawing among
candidates with weights exp(α Q).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcps.algorithms import critics, sde
from diffcps.algorithms.base import Batch, Copy, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.choosing import mean_of_drawn
from diffcps.algorithms.nn import Layers
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.rewards import continues
from diffcps.algorithms.score import ROWS_AT_ONCE, Scored, ScoreSettings, soft_value
from diffcps.algorithms.settings import Changes, TaskFacts, WithRaisedStudent, published, unless_bandit
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import setting

EARLIEST = 1e-5
"""The smallest diffusion time that the behaviour model learns."""
ORDER = 3
"""Of the solver."""
LEAST_DEVIATION = 0.1
"""Returns are divided by their standard deviation, or by this where it is smaller."""
BEHAVIOUR_STEPS = 586_000


@dataclass(frozen=True)
class Settings(WithRaisedStudent, ScoreSettings):
    """The settings of a member."""

    batch_size: int = setting(4096, "a positive whole number")
    """Transitions in one gradient step of the critic."""
    behaviour_share: float = setting(0.9, "between 0 and 1", pack=True)
    """Share of the training in which the behaviour model learns, at its beginning."""
    hidden_layers: int = setting(2, "a positive whole number")
    """Hidden layers of the critic."""
    wide_critic: bool = False
    """Whether the first hidden layer of the critic is twice as wide, and there is one layer more."""
    critic_learning_rate: float = setting(1e-3, "a positive number")
    """Adam's learning rate for the critic."""
    discount: float = setting(0.99, "between 0 and 1")
    """γ, the discount of future rewards."""
    rounds: int = setting(2, "a positive whole number", search="1,2,3,4,5")
    """K, how often the critic is fitted; before each time but the first the returns are planned."""
    planning_sharpness: float = setting(20.0, "zero or more", search="1:100:log")
    """α of a state's value in planning, Σ softmax(α Q) Q over actions of the behaviour model."""
    acting_sharpness: float = setting(100.0, "zero or more", acting=True)
    """α of the weights exp(α Q) by which candidates are drawn when acting, Q having deviation 1 over the data."""
    drawn: int = setting(1, "a positive whole number", acting=True)
    """How many different candidates are drawn when acting; the action is their mean. Without more candidates than these
    the critic has no say."""


def planned(rewards: Tensor, goes_on: Tensor, floor: Tensor | None, discount: Tensor) -> Tensor:
    """R_i = max(r_i + γ R_{i+1}, V_i), and r_i alone in place of the sum where row i ends its trajectory (section 4.2).

    Args:
        rewards: ``[N]`` in the order of the data.
        goes_on: ``[N]``, whether the next row is of the same trajectory.
        floor: V ``[K, N]``; ``None``: none, so that these are the returns of the data.
        discount: γ ``[K]``.

    Returns:
        ``[K, N]`` of the type of ``rewards``, worked out in double precision: first the last rows of all trajectories, then
        those before them, and so on.
    """
    rows = torch.arange(len(rewards), device=rewards.device)
    ends = rows[~goes_on]
    left = ends[torch.searchsorted(ends, rows)] - rows
    found = rewards.double().repeat(len(discount), 1)
    least = None if floor is None else floor.double()
    rates = discount.double()[:, None]
    for distance, these in enumerate(left.argsort(stable=True).split(left.bincount().tolist())):
        if distance > 0:
            found[:, these] += rates * found[:, these + 1]
        if least is not None:
            found[:, these] = torch.maximum(found[:, these], least[:, these])
    return found.to(rewards)


class SfBC(Scored[Settings]):
    """Behaviour model and critic."""

    settings = Settings
    acting = "actor", "frequencies", "student", "critic", "acting_sharpness"
    student_critic = "critic"

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config = self.config
        wide = config.wide_critic
        self.critic = Critic(
            problem.observation_size,
            problem.action_size,
            config.hidden_size,
            layers=config.hidden_layers + wide,
            heads=1,
            activation=torch.nn.functional.silu,
            product=self.product,
            first=2 * config.hidden_size if wide else None,
        )
        # `start` stays as it is; `before` is the critic of the round before
        copies = {"start": Copy([0.0] * len(members)), "before": Copy([1.0] * len(members))}
        self.networks["critic"] = Network(self.critic, "critic_learning_rate", copies)
        self.kinds["critic"] = StepKind(config.batch_size, critics.METRICS, reads=("returns",))
        self.member_columns = {"returns": (), "support": (config.support, problem.action_size)}
        kinds = ["behaviour", *["critic"] * config.rounds]
        share = config.behaviour_share
        shares = [share, *[(1.0 - share) / config.rounds] * config.rounds]
        self.stages = Stage.in_shares([(kind,) for kind in kinds], shares, problem.steps)
        self.add_student()

    @classmethod
    def stages_of(cls, settings: Settings) -> int:
        """See ``Scored.stages_of``."""
        return 1 + settings.rounds

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """The authors' program for D4RL; other goal tasks get what mazes have in common, others what locomotion has."""
        own = published("sfbc", task)
        settings = unless_bandit(task, {"drawn": 1 if task.goal_rewards else 4})
        evaluation: dict[str, object] = {"candidates": 32}
        if not own:
            return {"settings": settings, "evaluation": evaluation}
        fitting = own.pop("critic_steps")
        steps = BEHAVIOUR_STEPS + fitting
        settings |= own | {"behaviour_share": BEHAVIOUR_STEPS / steps}
        return {"steps": steps, "settings": settings, "evaluation": evaluation}

    def tensors(self) -> dict[str, Tensor]:
        """Mean and deviation of the returns that the critic learns, and of those of the round before."""
        unit = torch.tensor([0.0, 1.0], device=self.device).repeat(len(self.members), 1)
        return {"scale": unit, "scale_before": unit.clone()}

    def finish(self, stage: int, pack: Pack) -> None:
        """After a round: keep its critic to plan with, and begin another from the start."""
        if stage > 0:
            pack.move("before")
            pack["scale_before"].copy_(pack["scale"])
            pack.restart("critic", "start")

    def fill(self, stage: int, pack: Pack, data: Batch, key: Tensor, heartbeat: Callable[[], None]) -> None:
        """Before the first round draw actions for planning; before every round work out the returns, in units of ``scale``."""
        if stage == 0:
            return
        floor = None
        if stage == 1:
            into = data.of_member["support"]
            self.draw_support(pack, key, data.observations, self.sample, into=into, stream=0, heartbeat=heartbeat)
        else:
            floor = self.values_of_states(pack, data, heartbeat)
        returns = planned(data.rewards, continues(data), floor, pack.values["discount"])
        # member by member: how a mean over rows is added up depends on how many of them there are
        each = [torch.std_mean(own.double(), correction=0) for own in returns]
        mean, deviation = torch.stack([m for _, m in each]).float(), torch.stack([d for d, _ in each]).float()
        deviation = deviation.clamp(min=LEAST_DEVIATION)
        pack["scale"].copy_(torch.stack([mean, deviation], dim=1))
        data.of_member["returns"].copy_((returns - mean[:, None]) / deviation[:, None])

    def values_of_states(self, pack: Pack, data: Batch, heartbeat: Callable[[], None]) -> Tensor:
        """V ``[K, N]`` by the critic of the round before, in the unit of rewards. Members take turns."""
        mean, deviation = pack["scale_before"].split(1, dim=1)
        found = torch.empty_like(data.of_member["returns"])
        for member, support in enumerate(data.of_member["support"].split(1)):
            own, first = slice(member, member + 1), 0
            layers, sharpness = self.critic.layers(pack["before"][own]), pack.values["planning_sharpness"][own]
            for states, actions in zip(
                data.observations.split(ROWS_AT_ONCE), support.split(ROWS_AT_ONCE, dim=1), strict=True
            ):
                values = self.critic(layers, states[None], actions.flatten(1, 2)).view(1, len(states), -1)
                found[own, first : first + len(states)] = soft_value(values, sharpness)
                first += len(states)
                heartbeat()
        return found * deviation + mean

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place."""
        if kind == "behaviour":
            return self.clone(pack, batch, noise, earliest=EARLIEST)
        return critics.learn(pack, self.critic, batch, batch.more["returns"])

    def sample(self, layers: Layers, frequencies: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions ``[K, B·n, a]`` of the behaviour model in units of their bound, not kept within it."""
        predict = self.denoiser(layers, frequencies, observations)
        return sde.solve(predict, noise, self.config.diffusion_steps, ORDER)

    def carry(self, pack: Pack, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``Teacher.carry``."""
        layers = self.noise_net.layout.layers(pack["actor"])
        return self.sample(layers, pack["frequencies"], observations, noise).clamp(-1.0, 1.0)

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """The mean of candidates drawn without replacement, by weights exp(α Q)."""
        layers = self.noise_net.layout.layers(parameters["actor"])
        actions = self.sample(layers, parameters["frequencies"], observations, noise[0])
        values = self.critic(self.critic.layers(parameters["critic"]), observations, actions).squeeze(1)
        sharp = parameters["acting_sharpness"][:, None] * values
        chosen = mean_of_drawn(actions, sharp, uniform, count=self.config.drawn)
        return self.problem.max_action * chosen.clamp(-1.0, 1.0)
