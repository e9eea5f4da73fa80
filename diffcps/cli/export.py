"""``diffcps export``: a trained policy as files for use elsewhere."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from diffcps.config import Actor


@dataclass(frozen=True)
class Export:
    """Write a trained policy into a folder: policy.safetensors and policy.json, which diffcps.load_policy reads, and
    policy.onnx, a function (observations, noise) -> actions for programs without this project and without torch.

    Exported are the networks of the newest checkpoint: the last ones, once the trial is complete.
    """

    policy: tyro.conf.Positional[str]
    """A run folder (results/NAME/runs/KEY) or its KEY, an exported folder, or an MLflow model (models:/TASK@best)."""
    folder: tyro.conf.Positional[Path]
    """Where the files go; made if need be."""
    member: int | None = None
    """Which policy of a run folder's pack, counted from 0; by default the first."""
    onnx: bool = True
    """Whether to write policy.onnx (extra: export)."""
    candidates: int | None = None
    """In policy.onnx: actions drawn for each observation, of which one is chosen by value; by default as many as the policy
    was judged with. 1 takes the policy's own action and needs no critic."""
    actor: Actor | None = None
    """In policy.onnx: the online policy, or its moving average; by default the one that was judged."""
    results: Path = Path("results")
    """Folder that holds the sweeps, and MLflow's store unless another is given."""
    tracking_uri: str | None = None
    """MLflow's store, for a model of MLflow's; by default $MLFLOW_TRACKING_URI or mlflow.db in the results folder."""

    def __call__(self) -> None:
        """Run it."""
        from diffcps.cli.policies import find
        from diffcps.deploy import onnx

        console = Console()
        if self.onnx:
            onnx.require()
        with tempfile.TemporaryDirectory(prefix="diffcps-") as scratch:
            policy = find(self.policy, self.member, self.results, self.tracking_uri, Path(scratch))[0]
            policy.save(self.folder)
            step, steps = policy.card.step, policy.card.run.steps
            unfinished = f" of {steps:,}: its trial is not complete" if step < steps else ""
            console.print(
                f"{policy.card.run.task}, seed {policy.card.config.seed}, step {step:,}{unfinished}", highlight=False
            )
            files = ["policy.safetensors", "policy.json"]
            if self.onnx:
                with console.status("writing policy.onnx, which takes some seconds"):
                    onnx.export(policy, self.folder / onnx.FILE, self.candidates, self.actor)
                files.append(onnx.FILE)
        for name in files:
            size = (self.folder / name).stat().st_size
            console.print(f"{self.folder / name}: {size / 1e3:,.0f} kB", highlight=False, soft_wrap=True)
