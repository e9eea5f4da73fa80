"""The picture of the policies' own actions on a bandit: whose it shows, and what it leaves out."""

from pathlib import Path

import numpy as np
import run_folders as synthetic
from matplotlib.figure import Figure as Canvas

from diffcps import report
from diffcps.tasks.bandits import bandit


def test_actions_that_were_left_are_drawn_over_the_datas(tmp_path: Path) -> None:
    """Of the bandit alone, on and off its support in two colours; what a diverged seed left is not there."""
    corners, robot = synthetic.config("bandit-corners", seeds=2), synthetic.config("hopper-medium-v2")
    silent = synthetic.config("bandit-moons", seeds=2)
    folder, *_ = (synthetic.write(tmp_path, trial) for trial in (corners, silent, robot))
    good = bandit("corners").sample(30, np.random.default_rng(0))
    good[:10] = 0.0  # between the corners
    actions = np.stack([good, np.full_like(good, np.nan)])
    folder.log_measures(synthetic.STEPS, corners, {}, {"a_0": actions[:, :, 0], "a_1": actions[:, :, 1]})
    found = report.build(synthetic.describe(tmp_path, corners, silent, robot))
    (figure,) = (figure for figure in found.document.figures if figure.name == "actions")
    (panel,) = figure.panels
    assert "bandit-corners" in panel.title
    axes = Canvas().add_subplot()
    panel.draw(axes)
    data, on_support, off_support = (len(line.get_xdata()) for line in axes.lines)
    assert data > 100
    assert on_support + off_support == 30
    assert 10 <= off_support < 20


def test_no_actions_no_picture(tmp_path: Path) -> None:
    trial = synthetic.config("bandit-corners", seeds=2)
    synthetic.write(tmp_path, trial)
    found = report.build(synthetic.describe(tmp_path, trial))
    assert "actions" not in {figure.name for figure in found.document.figures}
