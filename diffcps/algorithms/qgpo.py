"""Q-guided policy optimisation (Lu et al., 2023, arXiv 2304.12824): a cloned policy, steered by an energy while it samples.

A continuous-time diffusion model clones the data, and draws M actions for each observation and each next observation once. The
critic looks ahead by the softmax of its values over these actions. An energy network learns, from the same actions with noise
(contrastive energy prediction), what its gradient must be for guided samples to follow μ(a|s) exp(β Q(s, a)) exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from diffcps.algorithms import critics, sde
from diffcps.algorithms.base import Batch, Metrics, Network, Problem, Stage, StepKind, StepNoise
from diffcps.algorithms.nn import Layers, Layout, first_layer, linear
from diffcps.algorithms.pack import Pack
from diffcps.algorithms.score import Frequencies, Scored, ScoreSettings, soft_value, waves
from diffcps.algorithms.settings import Changes, TaskFacts, WithCritic, d4rl, published
from diffcps.algorithms.streams import Noise, Normal, Uniform
from diffcps.algorithms.value_nets import Critic
from diffcps.config.plain import require, setting

EARLIEST = 1e-3
"""The smallest diffusion time that behaviour model and energy learn."""
ORDER = 2
"""Of the solver."""
ENERGY_METRICS = "energy_loss", "energy_grad_norm"
STEPS = 1_600_000
MAZE_SCALE = 2.0
"""Guidance scale on mazes."""


@dataclass(frozen=True)
class Settings(ScoreSettings, WithCritic):
    """The settings of a member."""

    behaviour_share: float = setting(0.375, "between 0 and 1", pack=True)
    """Share of the training in which the behaviour model learns, at its beginning."""
    energy_share: float = setting(0.3125, "between 0 and 1", pack=True)
    """Share of the training in which the energy network learns alone, at its end. Between them critic and energy learn."""
    energy_layers: int = setting(4, "a positive whole number")
    """Hidden layers of the energy network."""
    energy_learning_rate: float = setting(3e-4, "a positive number")
    """Adam's learning rate for the energy network."""
    beta: float = setting(3.0, "zero or more", search="0.5:20:log")
    """β, how strongly the optimal policy μ exp(β Q) prefers large values."""
    backup_beta: float = setting(1.0, "zero or more", search="0.5:20:log")
    """β_Q of the value of the next state, Σ softmax(β_Q Q) Q over actions of the behaviour model (the authors' program: β)."""
    guidance_scale: float = setting(1.0, "zero or more", search="0.5:10:log", acting=True)
    """s, by which the energy's gradient is multiplied when acting. 0 is behaviour cloning, 1 the policy μ exp(β Q)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = f"less than 1 − behaviour_share ({1.0 - self.behaviour_share:g}), for the critic learns between the two"
        require(self.behaviour_share + self.energy_share < 1.0, "energy_share", self.energy_share, most)


class EnergyNet:
    """f(a, t, s) with SiLU, for all members at once, and its slope in a: one number for each action.

    Only differences of f matter, so its last bias is not used. Its gradient would be rounding, which Adam makes as large as any.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: int,
        embedding: int,
        layers: int,
        product: torch.dtype | None = None,
    ) -> None:
        self.action_size = action_size
        self.product = product
        inputs = (action_size + embedding + observation_size, hidden)
        self.layout = Layout(((embedding, embedding), inputs, *[(hidden, hidden)] * (layers - 1), (hidden, 1)))

    def observe(self, layers: Layers, observations: Tensor, features: Tensor) -> Tensor:
        """What observations ``[K, B, o]`` and ``waves`` ``[K, B or 1, E]`` give to the first hidden layer, ``[K, B, H]``."""
        time = linear(features, layers[0]).expand(-1, observations.shape[1], -1)
        weight, bias = layers[1]
        return linear(torch.cat([time, observations], dim=2), (weight[:, self.action_size :], bias))

    def __call__(self, layers: Layers, actions: Tensor, observed: Tensor) -> Tensor:
        """``[K, B·n]`` for actions ``[K, B·n, a]``, n of them for each observation."""
        hidden = first_layer(actions, layers[1][0][:, : self.action_size], observed)
        for layer in layers[2:-1]:
            hidden = linear(silu(hidden), layer, self.product)
        weight, bias = layers[-1]
        return linear(silu(hidden), (weight, 0.0 * bias)).squeeze(-1)

    def slope(self, layers: Layers, actions: Tensor, observed: Tensor) -> Tensor:
        """∂f/∂a ``[K, B·n, a]``, written out, so that acting needs no automatic differentiation."""
        hidden = first_layer(actions, layers[1][0][:, : self.action_size], observed)
        bends = [_silu_slope(hidden)]
        for layer in layers[2:-1]:
            hidden = linear(silu(hidden), layer, self.product)
            bends.append(_silu_slope(hidden))
        slope = bends.pop() * layers[-1][0].transpose(1, 2)
        for (weight, _), bend in zip(reversed(layers[2:-1]), reversed(bends), strict=True):
            slope = torch.bmm(slope, weight.transpose(1, 2)) * bend
        return torch.bmm(slope, layers[1][0][:, : self.action_size].transpose(1, 2))


def _silu_slope(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1.0 + x * (1.0 - gate))


def energy_loss(energies: Tensor, values: Tensor, beta: Tensor) -> Tensor:
    """−mean_b Σ_j softmax_j(β Q_j) log softmax_j(f_j) for f and Q ``[K, B, M]`` and β ``[K]`` (equation 11)."""
    labels = (beta[:, None, None] * values).softmax(dim=-1)
    return -(labels * energies.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)


class QGPO(Scored[Settings]):
    """Behaviour model, critic and energy."""

    settings = Settings
    chooses = False
    acting: ClassVar[tuple[str, ...]] = (
        "actor", "frequencies", "student", "energy", "energy_frequencies", "guidance_scale"
    )  # fmt: skip

    def __init__(self, members: Sequence[Settings], problem: Problem, device: torch.device) -> None:
        super().__init__(members, problem, device)
        config, states, size = self.config, problem.observation_size, problem.action_size
        self.critic = Critic(states, size, config.hidden_size, **self.shape, activation=torch.relu)
        self.energy = EnergyNet(
            states, size, config.hidden_size, config.time_embedding, layers=config.energy_layers, product=self.product
        )
        self.networks |= {
            "critic": critics.network(self.critic, members),
            "energy": Network(self.energy.layout, "energy_learning_rate"),
            "energy_frequencies": Network(Frequencies(config.time_embedding // 2), learning_rate=None),
        }
        rows, count = config.batch_size, config.support
        self.member_columns = {"support": (count, size), "next_support": (count, size)}
        noise: dict[str, Noise] = {"noise": Normal((rows * count, size)), "time": Uniform((rows,))}
        both = (*critics.METRICS, *ENERGY_METRICS)
        self.kinds |= {
            "critic": StepKind(rows, both, noise, reads=("support", "next_support")),
            "energy": StepKind(rows, ENERGY_METRICS, noise, reads=("support",)),
        }
        first, last = config.behaviour_share, config.energy_share
        shares = first, 1.0 - first - last, last
        self.stages = Stage.in_shares([("behaviour",), ("critic",), ("energy",)], shares, problem.steps)
        self.add_student()

    @classmethod
    def stages_of(cls, settings: Settings) -> int:
        """See ``Scored.stages_of``."""
        return 3

    @classmethod
    def of_task(cls, task: TaskFacts) -> Changes:
        """Appendix H of the paper. The scale on mazes is not published with it: 2 is within the authors' range, 1 to 4.

        Other tasks get what mazes have in common where rewards are 1 at a goal, and else what locomotion has.
        """
        settings: dict[str, Any] = {"reward_transform": "return_range"}
        if task.goal_rewards:
            settings = {
                "reward_transform": "minus_one", "backup_beta": 20.0, "support": 32, "guidance_scale": MAZE_SCALE,
            }  # fmt: skip
        settings |= published("qgpo", task)
        return d4rl(task, settings, STEPS, {"locomotion": (40_000, 10), "antmaze": (40_000, 100)})

    def fill(self, stage: int, pack: Pack, data: Batch, key: Tensor, heartbeat: Callable[[], None]) -> None:
        """After cloning, draw the actions over which values are taken."""
        if stage != 1:
            return
        columns = {"support": data.observations, "next_support": data.next_observations}
        for stream, (name, states) in enumerate(columns.items()):
            into = data.of_member[name]
            self.draw_support(pack, key, states, self.sample, into=into, stream=stream, heartbeat=heartbeat)

    def update(self, pack: Pack, batch: Batch, noise: StepNoise, kind: str) -> Metrics:
        """One gradient step of every member, in place."""
        if kind == "behaviour":
            return self.clone(pack, batch, noise, earliest=EARLIEST)
        metrics = self.learn_critic(pack, batch) if kind == "critic" else {}
        return metrics | self.learn_energy(pack, batch, noise)

    def learn_critic(self, pack: Pack, batch: Batch) -> Metrics:
        """The mean over heads of the squared error to r + γ (1 − terminal) Σ softmax(β_Q Q') Q' over the next actions."""
        values = self.values_of(pack, batch.next_observations, batch.more["next_support"])
        goal = critics.one_step_ahead(pack, batch, soft_value(values, pack.values["backup_beta"]))
        metrics = critics.learn(pack, self.critic, batch, goal, average=True)
        pack.move("target")
        return metrics

    @torch.no_grad()
    def values_of(self, pack: Pack, observations: Tensor, actions: Tensor) -> Tensor:
        """min(Q1', Q2') ``[K, B, M]`` of M actions for each observation."""
        values = self.critic(self.critic.layers(pack["target"]), observations, actions.flatten(1, 2)).amin(dim=1)
        return values.unflatten(1, actions.shape[1:3])

    def learn_energy(self, pack: Pack, batch: Batch, noise: StepNoise) -> Metrics:
        """Contrastive energy prediction: all actions of a state are noised to the same time."""
        support, time = batch.more["support"], EARLIEST + (1.0 - EARLIEST) * noise["time"]
        values = self.values_of(pack, batch.observations, support)
        leaves = self.energy.layout.leaves(pack["energy"])
        observed = self.energy.observe(leaves, batch.observations, waves(pack["energy_frequencies"], time))
        noisy = sde.add_noise(support, time[..., None], noise["noise"].view_as(support))
        energies = self.energy(leaves, noisy.flatten(1, 2), observed).view_as(values)
        loss = energy_loss(energies, values, pack.values["beta"])
        norm = pack.descend("energy", loss, leaves)
        return {"energy_loss": loss.detach(), "energy_grad_norm": norm}

    def sample(
        self,
        layers: Layers,
        frequencies: Tensor,
        observations: Tensor,
        noise: Tensor,
        guide: sde.Predictor | None = None,
    ) -> Tensor:
        """Actions ``[K, B·n, a]`` in units of their bound, not kept within it; of the behaviour model where nothing guides."""
        predict = self.denoiser(layers, frequencies, observations, guide)
        return sde.solve(predict, noise, self.config.diffusion_steps, ORDER, prediction="start")

    def carry(self, pack: Pack, observations: Tensor, noise: Tensor) -> Tensor:
        """See ``Teacher.carry``: the guided sample."""
        return self.guided({"guidance_scale": pack.values["guidance_scale"], **pack.tensors}, observations, noise)

    def act(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """One guided sample."""
        return self.problem.max_action * self.guided(parameters, observations, noise[0])

    def guided(self, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor) -> Tensor:
        """Where the solver carries noise ``[K, B·n, a]`` by behaviour model and energy, in units of the actions' bound."""
        layers = self.noise_net.layout.layers(parameters["actor"])
        energy = self.energy.layout.layers(parameters["energy"])
        scale = parameters["guidance_scale"][:, None, None]

        seen = self.energy.observe(energy, *self.at_times(observations, parameters["energy_frequencies"]))
        known = dict(zip(self.times, self.by_time(seen), strict=True))

        def guide(x: Tensor, time: float) -> Tensor:
            return scale * self.energy.slope(energy, x, known[time])

        return self.sample(layers, parameters["frequencies"], observations, noise, guide=guide).clamp(-1.0, 1.0)
