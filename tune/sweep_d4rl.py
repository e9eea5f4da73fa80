"""The main job: the paper's D4RL table, a demo, a search or an ablation. ``--help`` lists the flags."""

from diffcps.cli import run
from diffcps.runs.flags import SweepOptions
from diffcps.sweep.launch import launch

if __name__ == "__main__":
    run(SweepOptions, launch)
