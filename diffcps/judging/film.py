"""A film of one judged episode, drawn by MuJoCo from the positions that were kept."""

from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from diffcps.envs.simulations import Floats, Simulated
from diffcps.errors import UserError
from diffcps.judging import graphics
from diffcps.judging.playing import Judged

WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 30.0
"""At most; every so many steps are drawn that the film runs in the simulation's own time."""
_FIELD = 45.0
"""MuJoCo's free camera sees this many degrees from top to bottom."""


def require() -> None:
    """Raise ``UserError`` where a film cannot be made: no encoder installed, or nothing that draws."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise UserError("to write a film, imageio-ffmpeg is needed: pip install 'diffcps[video]'.") from error
    graphics.prepare()


def write(judged: Judged, episode: int, file: Path, tick: Callable[[int, int], None] | None = None) -> Path:
    """Write an episode of the recording as an MP4 film (H.264).

    Args:
        judged: what ``judge`` gave with ``record``.
        episode: which one, counted from 0; one of the first round's.
        file: where to; its name ends in ``.mp4``.
        tick: called after each frame with how many there are and how many there will be.

    Raises:
        UserError: nothing draws or encodes here, or the file cannot be written.
    """
    require()
    import imageio_ffmpeg

    recording = judged.recording
    assert recording is not None, "the episodes were judged without recording them"
    rules = recording.rules
    every = max(1, round(1.0 / (rules.dt * FRAMES_PER_SECOND)))
    positions = [rows[episode] for rows in recording.positions[: int(judged.lengths[episode])]][::every]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(str(file), (WIDTH, HEIGHT), fps=1.0 / (rules.dt * every), quality=7)
        writer.send(None)
        with _Stage(rules, recording.goals[episode]) as stage:
            for number, position in enumerate(positions, start=1):
                writer.send(np.ascontiguousarray(stage.draw(position)))
                if tick is not None:
                    tick(number, len(positions))
        writer.close()
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}. Choose another file.") from error
    return file


class _Stage:
    """Draws positions of one environment: mazes from above, with the goal and the way so far, robots from the side."""

    def __init__(self, rules: Simulated, goal: Floats) -> None:
        self.model = rules.model
        self.data = mujoco.MjData(self.model)
        self.goal = None if rules.goal is None else goal
        self.way: list[NDArray[np.float64]] = []
        self.camera: mujoco.MjvCamera | str | int = -1
        if self.goal is not None:
            self.camera = _above(self.model)
        elif mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, "track") >= 0:
            self.camera = "track"
        self.renderer = mujoco.Renderer(self.model, HEIGHT, WIDTH)

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.close()

    def draw(self, position: Floats) -> NDArray[np.uint8]:
        """A frame ``[height, width, 3]``."""
        self.data.qpos[:] = position
        mujoco.mj_forward(self.model, self.data)
        self.renderer.update_scene(self.data, self.camera)
        if self.goal is not None:
            size = 0.02 * float(self.camera.distance)  # type: ignore[union-attr]
            for place in self.way[:: max(1, len(self.way) // 200)]:
                self._ball(place, 0.25 * size, (0.2, 0.5, 1.0, 1.0))
            self._ball(self.goal, size, (0.9, 0.1, 0.1, 1.0))
            self.way.append(position[:2].copy())
        return self.renderer.render()

    def _ball(self, place: NDArray[np.float64], radius: float, colour: tuple[float, ...]) -> None:
        scene = self.renderer.scene
        if scene.ngeom < scene.maxgeom:
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom], mujoco.mjtGeom.mjGEOM_SPHERE, np.full(3, radius),
                np.array([place[0], place[1], radius]), np.eye(3).ravel(), np.array(colour, np.float32),
            )  # fmt: skip
            scene.ngeom += 1


def _above(model: mujoco.MjModel) -> mujoco.MjvCamera:
    """A camera that looks down on all walls."""
    boxes = (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX) & (model.geom_bodyid == 0)
    boxes |= (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX) & (model.body_weldid[model.geom_bodyid] == 0)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    low = (data.geom_xpos[boxes] - model.geom_size[boxes]).min(axis=0)
    high = (data.geom_xpos[boxes] + model.geom_size[boxes]).max(axis=0)
    width, height = (high - low)[:2]
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (low + high) / 2
    camera.azimuth, camera.elevation = 90.0, -90.0
    camera.distance = 1.1 * max(height, width * HEIGHT / WIDTH) / (2 * np.tan(np.radians(_FIELD / 2)))
    return camera
