"""How wide a trained chain samples N(0, s²), and its true KL: ``python -m tests.benchmarks.covariance [--steps N]``."""

import argparse
import functools
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from diffcps import data
from diffcps.runs.folder import RunFolder
from diffcps.runs.trial import read_trial
from diffcps.studies.results import Results, bandit_trial
from diffcps.studies.study import Scale
from diffcps.tasks.registry import task_of
from diffcps.training.process import Machine, prepare_process
from diffcps.training.trials import Assignment, run

STDS = 0.1, 0.2, 0.3, 0.5


def main() -> None:
    """Clone each behaviour with three seeds under β̃ and under the calibrated covariance, T = 5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12_000, help="gradient steps")
    length = parser.parse_args().steps
    prepare_process(1)
    table = Table("s", "covariance", "sampled std / s, by seed", "KL(π_b ‖ μ), nats", "behaviour loss")
    with tempfile.TemporaryDirectory() as folder:
        for std in STDS:
            for covariance in ("posterior", "calibrated"):
                trial = bandit_trial(
                    f"normal-{std}", Scale(), steps=(length, length), seeds=(3, 3), algorithm="bc", batch_size=256,
                    covariance=covariance, last_step_noise=covariance != "posterior",
                )  # fmt: skip
                run_folder = RunFolder(Path(folder) / trial.key)
                load = functools.partial(data.load, task_of(trial), trial.data)
                run([Assignment(trial, run_folder, load)], Machine(torch.device("cpu")))
                frame = Results((read_trial(run_folder.path),), 0).frame
                columns = frame["std_0"] / std, frame["kl"], frame["mean_behaviour_loss"]
                table.add_row(f"{std:g}", covariance, *(" ".join(f"{v:.4f}" for v in column) for column in columns))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
