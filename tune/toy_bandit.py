"""The paper's toy experiment on the ring, or on any bandit. ``--help`` lists the flags."""

from diffcps.cli import run
from diffcps.cli.study import Toy

if __name__ == "__main__":
    run(Toy, lambda command: command())
