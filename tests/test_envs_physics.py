"""The body masses of MuJoCo ≤ 2.1.1: against published totals and against inertias worked out by hand."""

import mujoco
import numpy as np
import pytest

from diffcps.envs.antmaze import AntMaze
from diffcps.envs.locomotion import HalfCheetah, Hopper, Walker2d
from diffcps.envs.physics import apply_d4rl_physics, choose_physics
from diffcps.errors import UserError


def inertia_tensor(model, body):
    frame = np.zeros(9)
    mujoco.mju_quat2Mat(frame, model.body_iquat[body])
    frame = frame.reshape(3, 3)
    return frame @ np.diag(model.body_inertia[body]) @ frame.T


@pytest.mark.parametrize(
    ("environment", "old", "modern"),
    [(Hopper, 15.265, 15.820), (Walker2d, 22.698, 23.677), (HalfCheetah, 14.0, 14.0)],
)
def test_total_mass(environment, old, modern):
    assert environment(physics="d4rl").model.body_mass.sum() == pytest.approx(old, abs=5e-4)
    assert environment(physics="modern").model.body_mass.sum() == pytest.approx(modern, abs=5e-4)
    # the constants derived from the masses follow
    model = environment(physics="d4rl").model
    assert model.body_subtreemass[0] == pytest.approx(old, abs=5e-4)


def test_ant_mass_by_hand():
    torso = 5 * 4 / 3 * np.pi * 0.25**3
    half_lengths = np.array([0.2, 0.2, 0.4]) * np.sqrt(2) / 2  # of the three capsules of a leg, along a diagonal
    cylinders = 5 * np.pi * 0.08**2 * np.sum(2 * half_lengths + 0.08)
    capsules = 5 * np.pi * 0.08**2 * np.sum(2 * half_lengths + 0.08 * 4 / 3)
    assert AntMaze(physics="d4rl").model.body_mass.sum() == pytest.approx(torso + 4 * cylinders)
    assert AntMaze(physics="modern").model.body_mass.sum() == pytest.approx(torso + 4 * capsules)


def test_hopper_thigh_by_hand():
    # <geom size="0.05 0.225" type="capsule"/>, 1000 kg/m³: a cylinder of radius .05 m and length 2·.225 + .05 = .5 m
    model = Hopper(physics="d4rl").model
    thigh = model.body("thigh")
    mass = 1000 * np.pi * 0.05**2 * 0.5
    assert thigh.mass[0] == pytest.approx(mass)
    transverse = mass * (3 * 0.05**2 + 0.5**2) / 12
    np.testing.assert_allclose(inertia_tensor(model, thigh.id), np.diag([transverse, transverse, mass * 0.05**2 / 2]))
    np.testing.assert_allclose(thigh.ipos, [0, 0, -0.225])


def test_cheetah_torso_by_hand():
    # Two capsules of radius .046: fromto (−.5, 0, 0)–(.5, 0, 0), and half-length .15 at (.6, 0, .1) tilted .87 about y.
    r, lengths = 0.046, np.array([2 * 0.5 + 0.046, 2 * 0.15 + 0.046])
    axes = np.array([[1, 0, 0], [np.sin(0.87), 0, np.cos(0.87)]])
    centres = np.array([[0, 0, 0], [0.6, 0, 0.1]])
    masses = 1000 * np.pi * r**2 * lengths
    centre = masses @ centres / masses.sum()
    inertia = np.zeros((3, 3))
    for mass, length, axis, position in zip(masses, lengths, axes, centres, strict=True):
        axial, transverse = mass * r**2 / 2, mass * (3 * r**2 + length**2) / 12
        offset = position - centre
        inertia += transverse * np.eye(3) + (axial - transverse) * np.outer(axis, axis)
        inertia += mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    others = 2 * np.array([0.145, 0.15, 0.094, 0.133, 0.106, 0.07]) + r
    scale = 14 / (masses.sum() + 1000 * np.pi * r**2 * others.sum())

    model = HalfCheetah(physics="d4rl").model
    torso = model.body("torso")
    assert torso.mass[0] == pytest.approx(scale * masses.sum())
    np.testing.assert_allclose(torso.ipos, centre, atol=1e-12)
    np.testing.assert_allclose(inertia_tensor(model, torso.id), scale * inertia, atol=1e-12)


@pytest.mark.parametrize("environment", [Hopper, Walker2d, HalfCheetah, AntMaze])
def test_only_masses_change(environment):
    old, modern = environment(physics="d4rl").model, environment(physics="modern").model
    for name in "geom_size", "geom_friction", "geom_pos", "geom_quat", "dof_damping", "dof_armature", "jnt_range":
        np.testing.assert_array_equal(getattr(old, name), getattr(modern, name), name)
    # Shapes stay where they were, whatever frame the body's inertia now has.
    data = [mujoco.MjData(model) for model in (old, modern)]
    for model, state in zip((old, modern), data, strict=True):
        state.qpos[:] += np.linspace(0.1, 0.3, model.nq)
        mujoco.mj_forward(model, state)
    np.testing.assert_allclose(data[0].geom_xpos, data[1].geom_xpos, atol=1e-12)
    np.testing.assert_allclose(data[0].geom_xmat, data[1].geom_xmat, atol=1e-12)


def body_of(*parts):
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody><body><freejoint/>{''.join(parts)}</body></worldbody></mujoco>"
    )


def test_other_shapes_keep_their_rule():
    shapes = [
        '<geom type="sphere" size=".2" pos="1 0 0"/>',
        '<geom type="box" size=".1 .2 .3" euler="10 20 30"/>',
        '<geom type="cylinder" size=".1 .3" pos="0 1 0"/>',
        '<geom type="ellipsoid" size=".1 .2 .3" pos="0 0 1" euler="30 0 0"/>',
    ]
    model, untouched = body_of(*shapes), body_of(*shapes)
    apply_d4rl_physics(model)
    assert model.body_mass[1] == pytest.approx(untouched.body_mass[1])
    np.testing.assert_allclose(model.body_ipos[1], untouched.body_ipos[1])
    np.testing.assert_allclose(inertia_tensor(model, 1), inertia_tensor(untouched, 1), atol=1e-9)


@pytest.mark.parametrize(
    "parts",
    [
        ['<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>', '<geom type="capsule" size=".1 .2"/>'],
        ['<geom type="capsule" size=".1 .2"/>', '<geom type="capsule" size=".1 .2" pos="1 0 0" density="10"/>'],
    ],
)
def test_masses_that_are_not_the_geoms(parts):
    with pytest.raises(ValueError, match="geoms"):
        apply_d4rl_physics(body_of(*parts))


def test_unknown_physics():
    with pytest.raises(UserError, match="'moon'"):
        choose_physics(Hopper(physics="modern").model, "moon")
