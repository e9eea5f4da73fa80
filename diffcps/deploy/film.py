"""A film of one episode, drawn by MuJoCo from recorded positions."""

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from diffcps.deploy.evaluate import EpisodeResults
from diffcps.envs.simulations import Floats, Simulated
from diffcps.errors import UserError
from diffcps.files import unwritable_as_user_error

# Finds a way for MuJoCo to draw on this machine, also without a screen.

_RENDERERS = "egl", "osmesa"
"""EGL draws on a graphics card or with Mesa, OSMesa in software only."""
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().shape == (32, 32, 3)
"""


def find_renderer(patience: float = 120.0) -> str:
    """Choose how MuJoCo draws in this process and return its name. ``$MUJOCO_GL`` has priority.

    Each renderer first draws a picture in a process of its own, because a broken one may crash its process or hang.
    ``patience`` is how many seconds it may take. Raises ``UserError`` saying what to install when none works.
    """
    chosen = os.environ.get("MUJOCO_GL")
    renderers = (chosen,) if chosen else _RENDERERS if sys.platform == "linux" else ("",)
    reasons = []
    for renderer in renderers:
        environment = os.environ | ({"MUJOCO_GL": renderer} if renderer else {})
        command = [sys.executable, "-c", _PROBE]
        try:
            tried = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired:
            reasons.append(f"{renderer or 'the system'}: no picture within {patience:g} s")
            continue
        if tried.returncode == 0:
            if renderer and not chosen:
                os.environ["MUJOCO_GL"] = renderer
                # MuJoCo read the variable when it was imported
                importlib.reload(importlib.import_module("mujoco.rendering.classic.gl_context"))
            return renderer or "the system's"
        last = (tried.stderr.strip().splitlines() or ["no error message"])[-1]
        reasons.append(f"{renderer or 'the system'}: {last}")
    raise UserError(
        f"MuJoCo cannot draw here ({'; '.join(reasons)}). Install a renderer, on Debian or Ubuntu `apt-get install libegl1 "
        "libgl1-mesa-dri` or `apt-get install libosmesa6`, and unset MUJOCO_GL; or leave out --video."
    )


prepare = functools.cache(find_renderer)
"""The same, once a process."""
WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 30.0
"""Upper limit. Frames are left out so that the film shows the simulation in real time."""
_FIELD = 45.0
"""MuJoCo's free camera sees this many degrees from top to bottom."""


def require() -> None:
    """Raise ``UserError`` when films cannot be made here: the encoder or a renderer is missing."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise UserError("--video needs imageio-ffmpeg: pip install 'diffcps[video]'.") from error
    prepare()


def write(
    results: EpisodeResults, episode: int, file: Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a recorded episode as an MP4 film (H.264).

    Args:
        results: of ``evaluate`` with ``record``.
        episode: number of a recorded episode, from 0.
        file: its name ends in ``.mp4``.
        progress: called after each frame with the number of frames so far and in all.

    Raises:
        UserError: the encoder or a renderer is missing, or the file cannot be written.
    """
    require()
    import imageio_ffmpeg

    recording = results.recording
    assert recording is not None, "evaluate was called without record"
    rules = recording.rules
    every = max(1, round(1.0 / (rules.dt * FRAMES_PER_SECOND)))
    positions = [rows[episode] for rows in recording.positions[: int(results.lengths[episode])]][::every]
    with unwritable_as_user_error(file, "Choose another file."):
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = imageio_ffmpeg.write_frames(str(file), (WIDTH, HEIGHT), fps=1.0 / (rules.dt * every), quality=7)
        writer.send(None)
        with _Stage(rules, recording.goals[episode]) as stage:
            for number, position in enumerate(positions, start=1):
                writer.send(np.ascontiguousarray(stage.draw(position)))
                if progress is not None:
                    progress(number, len(positions))
        writer.close()
    return file


class _Stage:
    """Draws positions in one environment: mazes from above with the goal and the path so far, robots from the side."""

    def __init__(self, rules: Simulated, goal: Floats) -> None:
        self.model = rules.model
        self.data = mujoco.MjData(self.model)
        self.goal = None if rules.goal is None else goal
        self.path: list[NDArray[np.float64]] = []
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
            for passed in self.path[:: max(1, len(self.path) // 200)]:
                self._ball(passed, 0.25 * size, (0.2, 0.5, 1.0, 1.0))
            self._ball(self.goal, size, (0.9, 0.1, 0.1, 1.0))
            self.path.append(position[:2].copy())
        return self.renderer.render()

    def _ball(self, centre: NDArray[np.float64], radius: float, colour: tuple[float, ...]) -> None:
        scene = self.renderer.scene
        if scene.ngeom < scene.maxgeom:
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom], mujoco.mjtGeom.mjGEOM_SPHERE, np.full(3, radius),
                np.array([centre[0], centre[1], radius]), np.eye(3).ravel(), np.array(colour, np.float32),
            )  # fmt: skip
            scene.ngeom += 1


def _above(model: mujoco.MjModel) -> mujoco.MjvCamera:
    """A camera above the maze that sees all its walls."""
    boxes = (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX) & (model.body_weldid[model.geom_bodyid] == 0)
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
