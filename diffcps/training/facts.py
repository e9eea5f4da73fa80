"""What a trial ran with: versions, commit, machine, data. Everything a referee would ask."""

import functools
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcps.data import library
from diffcps.tasks.registry import Task

if TYPE_CHECKING:
    import torch

    from diffcps.data.transitions import DatasetInfo

PACKAGES = "diffcps", "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari", "ray", "optuna", "mlflow"


@functools.cache
def git_commit() -> str:
    """The commit of the code in use, with ``-dirty`` if it has been edited since; ``unknown`` outside a checkout.

    ``DIFFCPS_COMMIT`` overrides it; the process that starts a sweep sets it for workers without a checkout.
    """
    if commit := os.environ.get("DIFFCPS_COMMIT"):
        return commit
    folder = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Version of each package that can change a result; ``more`` names some besides ``PACKAGES``."""
    return {"python": platform.python_version()} | {package: _version(package) for package in (*PACKAGES, *more)}


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def unused_gpu() -> str:
    """Why torch does not use the GPU of this machine, and what to do; empty where it does, where none is, or one is hidden."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available() or visible in ("", "-1") or not _has_gpu():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"the GPU of this machine is not used: torch {torch.__version__} is built for CPUs alone. Install the build with "
            "CUDA, for example with make clean install TORCH=auto."
        )
    shown = f" with CUDA_VISIBLE_DEVICES={visible}" if visible else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return (
        f"the GPU of this machine is not used: torch {torch.__version__} for {built} finds none{shown}. "
        "Compare the GPUs and the CUDA version that nvidia-smi shows; an older driver needs an older build of torch."
    )


def _has_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU, to torch or not."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def describe(task: Task, dataset: "DatasetInfo", device: "torch.device") -> dict[str, Any]:
    """The content of a run folder's ``environment.json``, all that a report says about the data included."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    data = asdict(dataset)
    returns = data.pop("returns")
    source = library.source(dataset.source)
    data |= {"label": source.label(task, dataset.provenance), "made_here": source.makes}
    data["path"] = str(dataset.path)
    data["behaviour_return"] = float(returns.mean()) if len(returns) else None
    return {
        "versions": versions(source.packages),
        "git_commit": git_commit(),
        "host": socket.gethostname(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "dataset": data,
    }
