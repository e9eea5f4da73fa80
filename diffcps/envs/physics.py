"""The body masses of MuJoCo ≤ 2.1.1, under which D4RL was recorded, on today's MuJoCo.

Before MuJoCo 2.1.2 the compiler took a capsule of radius r and half-length h for a **cylinder** of radius r and
length 2h + r. Today its mass and inertia are exact, so every body made of capsules changed. ``apply_d4rl_physics``
gives a compiled model its old masses and inertias back.
"""

from typing import get_args

import mujoco
import numpy as np
from numpy.typing import NDArray

from diffcps.config import Physics
from diffcps.errors import UserError

_TYPE = mujoco.mjtGeom


def _cylinder(radius: float, length: float) -> tuple[float, NDArray[np.float64]]:
    volume = np.pi * radius**2 * length
    transverse = (3 * radius**2 + length**2) / 12
    return volume, volume * np.array([transverse, transverse, radius**2 / 2])


def _exact_capsule(radius: float, half_length: float) -> tuple[float, NDArray[np.float64]]:
    volume, inertia = _cylinder(radius, 2 * half_length)
    caps = 4 / 3 * np.pi * radius**3
    # Two half balls, each with its own centre of mass 3r/8 beyond the end of the cylinder.
    transverse = radius**2 * 2 / 5 + half_length**2 + half_length * radius * 3 / 4
    return volume + caps, inertia + caps * np.array([transverse, transverse, radius**2 * 2 / 5])


def _unit_density(kind: int, size: NDArray[np.float64], old: bool) -> tuple[float, NDArray[np.float64]]:
    """Volume in m³ and principal moments [3] about the centre, in the geom's frame, at density 1 kg/m³."""
    match kind:
        case _TYPE.mjGEOM_CAPSULE if old:
            return _cylinder(size[0], 2 * size[1] + size[0])
        case _TYPE.mjGEOM_CAPSULE:
            return _exact_capsule(size[0], size[1])
        case _TYPE.mjGEOM_CYLINDER:
            return _cylinder(size[0], 2 * size[1])
        case _TYPE.mjGEOM_SPHERE | _TYPE.mjGEOM_ELLIPSOID:
            axes = np.full(3, size[0]) if kind == _TYPE.mjGEOM_SPHERE else size
            volume = 4 / 3 * np.pi * np.prod(axes)
            return float(volume), volume * (np.sum(axes**2) - axes**2) / 5
        case _TYPE.mjGEOM_BOX:
            volume = 8 * np.prod(size)
            return float(volume), volume * (np.sum(size**2) - size**2) / 3
    raise ValueError(f"no rule for the mass of a geom of type {_TYPE(kind).name} on a moving body")


def _rotation(quat: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def _compose(model: mujoco.MjModel, geoms: range, old: bool) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Mass, centre of mass [3] and inertia [3, 3] about it, in the body's frame, of geoms of density 1."""
    parts = []
    for g in geoms:
        volume, moments = _unit_density(int(model.geom_type[g]), model.geom_size[g], old)
        frame = _rotation(model.geom_quat[g])
        parts.append((volume, model.geom_pos[g], frame @ np.diag(moments) @ frame.T))
    mass = sum(volume for volume, _, _ in parts)
    centre = sum(volume * position for volume, position, _ in parts) / mass
    inertia = np.zeros((3, 3))
    for volume, position, own in parts:
        r = position - centre
        inertia += own + volume * (r @ r * np.eye(3) - np.outer(r, r))
    return mass, centre, inertia


def _replace_inertia(model: mujoco.MjModel, body: int) -> None:
    first = int(model.body_geomadr[body])
    geoms = range(first, first + int(model.body_geomnum[body]))
    exact_mass, _, exact_inertia = _compose(model, geoms, old=False)
    mass, centre, inertia = _compose(model, geoms, old=True)
    # A compiled model no longer knows densities. All geoms of one body share one here, so it is mass over volume;
    # the check catches a model for which that is not so.
    density = float(model.body_mass[body]) / exact_mass
    frame = _rotation(model.body_iquat[body])
    compiled = frame @ np.diag(model.body_inertia[body]) @ frame.T
    if not np.allclose(density * exact_inertia, compiled, rtol=1e-6, atol=1e-9 * np.trace(compiled)):
        raise ValueError(f"body {model.body(body).name!r} is not made of its geoms at one density")
    model.body_mass[body] = density * mass
    if len(geoms) == 1:
        # One geom's centre and axes are the same under both rules, and so is the frame MuJoCo derived from them.
        _, moments = _unit_density(int(model.geom_type[first]), model.geom_size[first], old=True)
        model.body_inertia[body] = density * moments
        return
    moments, axes, quat = np.zeros(3), np.zeros(9), np.zeros(4)
    mujoco.mju_eig3(moments, axes, quat, inertia.ravel())
    model.body_ipos[body] = centre
    model.body_iquat[body] = quat
    model.body_inertia[body] = density * moments
    # The inertial frame moved, so nothing may be taken to coincide with it any more.
    model.body_sameframe[body] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    model.geom_sameframe[model.geom_bodyid == body] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    model.site_sameframe[model.site_bodyid == body] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE


def apply_d4rl_physics(model: mujoco.MjModel) -> None:
    """Give ``model``, in place, the masses and inertias that MuJoCo ≤ 2.1.1 computed from the same geoms.

    Capsules are approximated by cylinders of length 2h + r; other shapes have one rule in every version. A model with
    a prescribed total mass needs ``set_total_mass`` afterwards. Raises ``ValueError`` for a body whose inertia does
    not follow from its geoms (an explicit ``<inertial>``, several densities, a mesh).
    """
    for body in range(1, model.nbody):
        if model.body_mass[body] > 0:
            _replace_inertia(model, body)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def set_total_mass(model: mujoco.MjModel, total_mass: float) -> None:
    """Scale all masses and inertias of ``model``, in place, so that the masses sum to ``total_mass`` kg."""
    mujoco.mj_setTotalmass(model, total_mass)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def choose_physics(model: mujoco.MjModel, physics: Physics) -> None:
    """``d4rl`` applies the old masses in place, ``modern`` leaves the model as today's compiler made it."""
    if physics not in get_args(Physics):
        raise UserError(f"physics = {physics!r}: it must be one of {get_args(Physics)}.")
    if physics == "d4rl":
        apply_d4rl_physics(model)
