"""How large a study is run: what its command line asks, and nothing that is slow to import."""

from dataclasses import dataclass, replace

from diffcps.config import DataSource, Physics


@dataclass(frozen=True)
class Scale:
    """How large a study is run."""

    quick: bool = False
    """Minutes on two cores instead of the full settings."""
    seeds: int | None = None
    """Seeds of each trial; by default the study's own number."""
    steps: int | None = None
    """Gradient steps of each trial; by default the study's own number."""
    data: tuple[str, ...] = ()
    """Names of the bandits (`ring`, `corners`, `8gaussians`, `mixture-5x2`, …) or tasks, where a study lets one choose."""
    diffusion_steps: tuple[int, ...] = ()
    """T, where a study lets one choose."""
    hidden_size: int | None = None
    """Width of the networks on locomotion tasks; by default the paper's. 64 makes hours of a CPU's days."""
    batch_size: int | None = None
    """Transitions in a gradient step on locomotion tasks; by default the paper's."""
    source: DataSource = "collected"
    """Where the data of locomotion tasks come from: collected here, D4RL's files, or those imported as Minari data sets."""
    physics: Physics | None = None
    """Body masses under which locomotion policies are judged; by default the task's own."""

    def of_steps(self, steps: int) -> "Scale":
        """The same with another number of gradient steps."""
        return replace(self, steps=steps)
