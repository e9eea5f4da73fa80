"""How a pack learns: what its members share, and what each has of its own."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from diffcps.config.plain import Plain, require, require_number
from diffcps.errors import UserError

Precision = Literal["fp32", "bf16"]
Algorithm = Literal["diffcps", "awr", "bc"]
PolicyClass = Literal["diffusion", "gaussian", "mixture", "deterministic"]
Covariance = Literal["posterior", "forward", "calibrated", "interpolated", "learned"]
Constraint = Literal["behaviour_loss", "elbo", "iwae", "renyi"]
Dual = Literal["released", "projected", "softplus", "pi", "augmented"]
Actor = Literal["online", "average"]


@dataclass(frozen=True)
class AlgorithmConfig(Plain):
    """What the whole pack shares, because it changes the computation itself."""

    later: ClassVar[frozenset[str]] = frozenset({
        "algorithm", "policy", "mixture_components", "covariance", "last_step_noise", "constraint", "constraint_samples",
        "renyi_order", "dual", "dual_gain", "behaviour_steps", "temperature", "hidden_layers", "held_policy",
    })  # fmt: skip

    diffusion_steps: int = 5
    """T, the number of steps of the diffusion chain."""
    beta_min: float = 0.1
    """Smallest rate of the variance-preserving noise schedule."""
    beta_max: float = 10.0
    """Largest rate of the variance-preserving noise schedule."""
    hidden_size: int = 256
    """Width of the three hidden layers of the noise net and of each critic."""
    time_embedding: int = 16
    """Size of the sinusoidal embedding of the diffusion step (even)."""
    batch_size: int = 256
    """Transitions in one gradient step of one member."""
    discount: float = 0.99
    """γ, the discount of future rewards."""
    target_rate: float = 0.005
    """τ, the Polyak rate of the target critic, applied every step."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the twin critic."""
    lambda_learning_rate: float = 3e-5
    """Adam's learning rate for the multiplier λ."""
    lambda_max: float = 100.0
    """Upper clip of λ where the policy's loss uses it."""
    policy_freq: int = 2
    """The policy and λ are updated every so many steps."""
    precision: Precision = "fp32"
    """Arithmetic of the hidden layers' matrix products, nearly all there is: ``fp32``, or ``bf16`` (faster, coarser)."""
    max_q_backup: bool = False
    """Back up the largest value over several next actions (the paper's choice for most AntMaze tasks)."""
    max_q_candidates: int = 10
    """Next actions per transition that a max-Q backup draws."""
    ema_decay: float = 0.995
    """Decay of the averaged policy that gives the target actions."""
    ema_every: int = 5
    """The averaged policy moves every so many steps."""
    ema_start: int = 1000
    """The averaged policy stays at its initial copy before this step."""
    algorithm: Algorithm = "diffcps"
    """``diffcps``; ``awr``: advantage-weighted regression; ``bc``: behaviour cloning, without value and constraint."""
    policy: PolicyClass = "diffusion"
    """What the policy is: a ``diffusion`` chain, a ``gaussian``, a ``mixture`` of Gaussians, or ``deterministic``."""
    mixture_components: int = 8
    """Gaussians in a ``mixture`` policy."""
    covariance: Covariance = "posterior"
    """Reverse variance of the chain: ``posterior`` β̃ (as released), ``forward`` β, ``calibrated`` β̃ + c L, one for each
    step; ``interpolated`` between β̃ and β and ``learned`` β̃ + c r(a, t, s), both by the network for each state."""
    last_step_noise: bool = False
    """Whether actions take the noise of the chain's last step."""
    constraint: Constraint = "behaviour_loss"
    """What κ bounds: the ``behaviour_loss`` L, or the cross-entropy to the behaviour in nats, estimated from above by
    the weighted ``elbo``, the ``iwae`` or the ``renyi`` bound."""
    constraint_samples: int = 8
    """Paths through the chain for each action in the ``iwae`` and ``renyi`` bounds."""
    renyi_order: float = 0.5
    """Order α of the ``renyi`` bound, from 0 (the IWAE) to 1 (the ELBO)."""
    dual: Dual = "released"
    """How λ moves: as ``released``, clipped only where it is used; ``projected`` on [λ_clip, λ_max] at each step;
    ``softplus`` of a free number; a ``pi`` controller; an ``augmented`` Lagrangian."""
    dual_gain: float = 1.0
    """Gain of the ``pi`` controller's proportional part, and penalty of the ``augmented`` Lagrangian."""
    behaviour_steps: int = 0
    """Gradient steps of behaviour cloning before the constrained problem begins; ``slack`` measures from their end."""
    temperature: float = 1.0
    """Of the weights exp(A / temperature) in ``awr``, with advantages A in units of the mean value's size."""
    hidden_layers: int = 3
    """Hidden layers of the policy's network and of each critic."""
    held_policy: Actor = "online"
    """Whose explanation of the data λ holds at κ: the ``online`` policy's, as released, or that of its ``average``, which has
    less of the optimiser's noise; slack is then measured, batch by batch, from the average that cloning has left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = "diffusion_steps", "hidden_size", "batch_size", "policy_freq", "max_q_candidates", "ema_every"
        counts = "mixture_components", "constraint_samples", "hidden_layers"
        require_number(self, "a positive whole number", *counts)
        require_number(self, "a positive whole number", *positive, "time_embedding")
        require(
            self.time_embedding % 2 == 0 and self.time_embedding > 2,
            "time_embedding",
            self.time_embedding,
            "an even number of at least 4",
        )
        require_number(self, "a whole number, zero or more", "ema_start", "behaviour_steps")
        require_number(self, "a positive number", "beta_min", "beta_max", "critic_learning_rate", "lambda_max")
        require_number(self, "a positive number", "temperature")
        require_number(self, "zero or more", "lambda_learning_rate", "dual_gain")
        require_number(self, "between 0 and 1", "discount", "target_rate", "ema_decay", "renyi_order")
        require(self.beta_max >= self.beta_min, "beta_max", self.beta_max, f"at least beta_min ({self.beta_min})")
        self._check_company()

    @property
    def average_settles(self) -> float:
        """Gradient steps after which less than a hundredth of the averaged policy is its initial copy."""
        forgotten = 1.0 - self.ema_decay
        return self.ema_start + 5.0 * self.ema_every / forgotten if forgotten else math.inf

    def _check_company(self) -> None:
        """Refuse settings that make no sense together."""
        bounds = self.constraint in ("iwae", "renyi", "elbo")
        if self.policy == "diffusion" and bounds and self.covariance == "posterior":
            raise UserError(
                f"constraint {self.constraint!r} needs a chain with a density, and with covariance 'posterior' the last "
                "step has none. Take covariance 'calibrated', 'forward', 'interpolated' or 'learned'."
            )
        if self.policy != "diffusion" and (self.covariance != "posterior" or self.last_step_noise):
            raise UserError(
                f"covariance and last_step_noise belong to a diffusion policy; this one is {self.policy!r}."
            )
        if self.policy != "diffusion" and self.constraint in ("iwae", "renyi"):
            raise UserError(
                f"constraint {self.constraint!r} bounds a diffusion policy; a {self.policy} has 'elbo', exactly."
            )
        if self.policy == "deterministic" and self.constraint != "behaviour_loss":
            raise UserError("a deterministic policy has no density: take constraint 'behaviour_loss'.")
        if self.held_policy == "average" and self.algorithm != "diffcps":
            raise UserError(
                f"held_policy is of the constraint that λ holds, and algorithm {self.algorithm!r} has none."
            )


@dataclass(frozen=True)
class MemberConfig(Plain):
    """What may differ between the members of one pack; inside the learner each becomes a tensor of length K."""

    seed: int = 0
    """Seeds this member's initial weights and all of its random streams."""
    learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""
    lambda_init: float = 1.0
    """λ before the first step."""
    lambda_clip: float = 0.0
    """Lower clip of λ where the policy's loss uses it (the paper's λ_clip)."""
    target_kl: float = 0.05
    """κ, the bound on the behaviour loss that λ enforces."""
    grad_norm: float = 9.0
    """Largest global L2 norm of a gradient; longer ones are scaled down to it."""
    slack: float | None = None
    """Sets κ from what behaviour cloning reaches in ``behaviour_steps``: (1 + slack)·L_BC for the behaviour loss, and
    slack nats above it for the cross-entropies; ``None`` keeps ``target_kl``."""
    lambda_speed: float = 1.0
    """This member's learning rate for λ as a multiple of the pack's: a small price wants smaller steps."""

    later: ClassVar[frozenset[str]] = frozenset({"slack", "lambda_speed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "a whole number, zero or more", "seed")
        # one 32-bit word: the random streams of longer seeds could run into another seed's
        require(self.seed < 2**32, "seed", self.seed, f"at most {2**32 - 1}")
        require_number(self, "a positive number", "learning_rate", "grad_norm")
        require_number(self, "zero or more", "lambda_init", "lambda_clip", "target_kl", "lambda_speed")
        if self.slack is not None:
            require_number(self, "zero or more", "slack")
