"""MuJoCo's pictures on machines without a screen: which of its ways works here."""

import functools
import importlib
import os
import subprocess
import sys

from diffcps.errors import UserError

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
