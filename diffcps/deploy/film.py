"""A film of one judged episode, drawn by MuJoCo from the positions that were kept."""

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

from diffcps.deploy.judge import Judged
from diffcps.envs.simulations import Floats, Simulated
from diffcps.errors import UserError

# MuJoCo's pictures on machines without a screen: which of its ways works here.

_WAYS = "egl", "osmesa"
"""On a graphics card or Mesa's copy of one, and in software alone."""
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().shape == (32, 32, 3)
"""


_PATIENCE = 120.0
"""Seconds that a way may take for its first picture; one that hangs would hang the film too."""


@functools.cache
def prepare() -> str:
    """Choose how MuJoCo draws in this process, unless ``$MUJOCO_GL`` has; returns the way's name.

    Each way is tried in a process of its own first: one that fails may take its process with it. Raises ``UserError``
    saying what to install when none works.
    """
    chosen = os.environ.get("MUJOCO_GL")
    ways = (chosen,) if chosen else _WAYS if sys.platform == "linux" else ("",)
    reasons = []
    for way in ways:
        environment = os.environ | ({"MUJOCO_GL": way} if way else {})
        command = [sys.executable, "-c", _PROBE]
        try:
            tried = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            reasons.append(f"{way or 'the system'}: no picture within {_PATIENCE:.0f} s")
            continue
        if tried.returncode == 0:
            if way and not chosen:
                os.environ["MUJOCO_GL"] = way
                # MuJoCo has read the variable when it was imported
                importlib.reload(importlib.import_module("mujoco.rendering.classic.gl_context"))
            return way or "the system's"
        last = (tried.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        reasons.append(f"{way or 'the system'}: {last}")
    raise UserError(
        f"MuJoCo cannot draw here ({'; '.join(reasons)}). Install a renderer, on Debian or Ubuntu `apt-get install libegl1 "
        "libgl1-mesa-dri` or `apt-get install libosmesa6`, and unset MUJOCO_GL; or leave out --video."
    )


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
    prepare()


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
