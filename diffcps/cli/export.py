"""``diffcps export``: a trained policy as files for use outside this project."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from diffcps.config import Actor


@dataclass(frozen=True)
class Export:
    """Write a trained policy into a folder.

    The networks are those of the newest checkpoint. diffcps.load_policy reads policy.safetensors and policy.json.
    policy.onnx is a function from observations and noise to actions, for programs without this project and torch.
    """

    policy: tyro.conf.Positional[str]
    """A run folder (results/NAME/runs/KEY) or its KEY, an exported folder, or an MLflow model (models:/TASK@best)."""
    folder: tyro.conf.Positional[Path]
    """Folder for the files. It is created if it does not exist."""
    member: int | None = None
    """Number of the policy in its pack, from 0. Default: the first."""
    onnx: bool = True
    """Whether to write policy.onnx (needs pip install 'diffcps[export]')."""
    candidates: int | None = None
    """For policy.onnx: actions sampled for each observation; the critic chooses one. Default: as in evaluations."""
    actor: Actor | None = None
    """For policy.onnx: the online policy or its moving average. Default: as in evaluations."""
    results: Path = Path("results")
    """Folder of the sweeps. MLflow's database is also here unless --tracking-uri is given."""
    tracking_uri: str | None = None
    """MLflow's store, to read an MLflow model. Default: $MLFLOW_TRACKING_URI, else mlflow.db in the results folder."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.cli.policies import find
        from diffcps.deploy import onnx

        console = Console()
        if self.onnx:
            onnx.require()
        with tempfile.TemporaryDirectory(prefix="diffcps-") as scratch:
            policy = find(
                self.policy,
                member=self.member,
                results=self.results,
                tracking_uri=self.tracking_uri,
                scratch=Path(scratch),
            )[0]
            policy.save(self.folder)
            step, steps = policy.card.step, policy.card.run.steps
            unfinished = f" of {steps:,}: the trial is not complete" if step < steps else ""
            console.print(
                f"{policy.card.run.task}, seed {policy.card.seed}, step {step:,}{unfinished}", highlight=False
            )
            files = ["policy.safetensors", "policy.json"]
            if self.onnx:
                with console.status("writing policy.onnx (takes some seconds)"):
                    onnx.export(policy, self.folder / onnx.FILE, self.candidates, self.actor)
                files.append(onnx.FILE)
        for name in files:
            size = (self.folder / name).stat().st_size
            console.print(f"{self.folder / name}: {size / 1e3:,.0f} kB", highlight=False, soft_wrap=True)
