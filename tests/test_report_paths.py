"""The picture of the policies' paths in a maze: the walls, whose paths it shows, and what it leaves out."""

from pathlib import Path

import numpy as np
import run_folders as synthetic
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyBboxPatch, Rectangle

from diffcps import report
from diffcps.envs import make, maze
from diffcps.tasks.registry import get_task


def test_paths_are_drawn_over_the_datas_between_the_walls(tmp_path: Path) -> None:
    umaze, robot = synthetic.config("antmaze-umaze-v0", seeds=2), synthetic.config("hopper-medium-v2")
    folder, *_ = (synthetic.write(tmp_path, trial) for trial in (umaze, robot))
    # two episodes and three stretches of data for each member, four points each; what a diverged seed left is not drawn
    numbers = np.repeat([0.0, 1.0, -1.0, -2.0, -3.0], 4)
    x = np.stack([np.arange(20.0) / 5, np.where(numbers < 0, 1.0, np.nan)])
    folder.log_measures(synthetic.STEPS, umaze, {}, {"path": np.stack([numbers] * 2), "x": x, "y": 0 * x})
    found = report.build(synthetic.describe(tmp_path, umaze, robot))
    (figure,) = (figure for figure in found.document.figures if figure.name == "paths")
    (panel,) = figure.panels
    assert "antmaze-umaze-v0" in panel.title
    axes = Canvas().add_subplot()
    panel.draw(axes)
    assert sorted(len(line.get_xdata()) for line in axes.lines) == [1, 4, 4, 4, 4, 4], (
        "the start, two episodes, the data once"
    )
    layout = maze(get_task("antmaze-umaze-v0"))
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(squares) == len(layout.cells("#"))
    (goals,) = (patch for patch in axes.patches if isinstance(patch, FancyBboxPatch))
    ends = goals.get_path().get_extents()
    environment = make(get_task("antmaze-umaze-v0"), "d4rl")
    reached = np.array([environment.unwrapped._draw_goal(np.random.default_rng(seed)) for seed in range(200)])
    assert (ends.min <= reached.min(axis=0) - layout.goal_radius).all()
    assert (ends.max >= reached.max(axis=0) + layout.goal_radius).all()
    np.testing.assert_allclose(ends.size, reached.max(axis=0) - reached.min(axis=0) + 2 * layout.goal_radius, atol=0.3)


def test_no_paths_no_picture(tmp_path: Path) -> None:
    trial = synthetic.config("antmaze-umaze-v0", seeds=2)
    synthetic.write(tmp_path, trial)
    found = report.build(synthetic.describe(tmp_path, trial))
    assert "paths" not in {figure.name for figure in found.document.figures}
