"""The main job: the paper's D4RL table, a demo, a search or an ablation. ``--help`` lists the flags."""

from diffcps.cli import run
from diffcps.sweep.launch import launch
from diffcps.sweep.options import SweepOptions

if __name__ == "__main__":
    run(SweepOptions, launch)
