"""The paper's open questions: ``python tune/study.py NAME [--quick]``. ``--help`` lists names and flags."""

from diffcps.cli import run
from diffcps.cli.study import StudyCommand

if __name__ == "__main__":
    run(StudyCommand, lambda command: command())
