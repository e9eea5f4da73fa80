"""The MLflow store: where it is, whether it works, how to connect to it."""

import contextlib
import logging
import os
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from diffcps.errors import UserError
from diffcps.text import first_line, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these when it is used. It reports usage over the network unless told not to, by default it tries for
# minutes to reach a server that is gone, and it prints two lines for every run that ends.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

CHECK_SECONDS = 5.0
"""How long a store may take to answer before a sweep starts."""


def default_uri(results: Path) -> str:
    """The SQLite store in a results folder, as an absolute URI: workers have another current folder."""
    return f"sqlite:///{results.resolve() / 'mlflow.db'}"


def is_new(uri: str) -> bool:
    """Whether the store is a database that is not there yet: ``check`` would make it."""
    return uri.startswith("sqlite://") and not _database(uri).exists()


def check(uri: str) -> str:
    """Make sure that a store answers and can be written, and set up a new database. Call it once, before workers start.

    Returns:
        The URI to use from now on, absolute.

    Raises:
        UserError: after a few seconds, when the store is not there, cannot be written, or is none of MLflow's.
    """
    scheme = uri.partition("://")[0]
    if scheme == "sqlite":
        path = _database(uri)
        uri = f"sqlite:///{path}"
        _check_database(path)
    elif scheme in ("http", "https"):
        if shown(uri) != uri:
            raise UserError(
                f"tracking URI {shown(uri)}: a password in an address is seen in the list of processes and kept with the "
                "results. Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on every node."
            )
        _check_server(uri)
    else:
        raise UserError(
            f"tracking URI {shown(uri)}: use sqlite:////absolute/path/mlflow.db or the http(s):// address of an MLflow "
            "server. For another database or a folder, start a server on it: mlflow server --backend-store-uri …"
        )
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # whatever the store's driver raises, a person must learn which store it was
        raise UserError(
            f"the MLflow store {shown(uri)} does not work: {first_line(error)} If an older MLflow made it, run "
            "mlflow db upgrade on it; if it asks for a password, set MLFLOW_TRACKING_USERNAME and _PASSWORD."
        ) from error
    return uri


def connect(uri: str) -> "MlflowClient":
    """A client of the store. MLflow takes seconds to import, so it is imported where it is first needed."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # what a database refuses is raised as well, and told of in a sentence; MLflow would print a page for each
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def download(address: str, uri: str | None, results: Path, folder: Path) -> Path:
    """Fetch a model of MLflow's, such as ``models:/hopper-medium-v2@best``, into ``folder``; returns where it lies.

    ``uri`` is the store; by default ``$MLFLOW_TRACKING_URI``, or the SQLite file in ``results``. Raises ``UserError`` when
    there is no store or no such model.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(results)
    if is_new(uri):
        raise UserError(f"{address}: there is no MLflow store at {shown(uri)}. Say where it is with --tracking-uri.")
    uri = check(uri)
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(_location(address, uri), dst_path=str(folder), tracking_uri=uri))
    except Exception as error:  # whatever the store or its driver raises, a person must learn what was asked of it
        there = _registered(uri) if address.startswith("models:/") else ""
        raise UserError(
            f"MLflow at {shown(uri)} does not give {address}: {first_line(error).rstrip('.')}.{there}"
        ) from error


def _registered(uri: str) -> str:
    """A sentence about the models in the registry, or nothing where it cannot be asked."""
    from mlflow import MlflowClient

    with contextlib.suppress(Exception):  # the question that failed before this one is what matters
        names = [model.name for model in MlflowClient(uri, uri).search_registered_models(max_results=50)]
        return f" Registered are: {', '.join(names)}." if names else " No model is registered there."
    return ""


def _location(address: str, uri: str) -> str:
    """Where the files of a model lie. MLflow itself would ask the store of the process, and not this one."""
    client = connect(uri)
    path = address.partition(":/")[2].strip("/")
    if not address.startswith("models:"):
        return address
    if "@" in path:
        return str(client.get_model_version_by_alias(*path.split("@", 1)).source)
    if "/" in path:
        return str(client.get_model_version(*path.split("/", 1)).source)
    return str(client.get_logged_model(path).artifact_location)


def artifact_location(uri: str, sweep: str) -> str | None:
    """Where a sweep's artifacts go: beside the database; ``None`` where a server decides it."""
    if not uri.startswith("sqlite:"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / sweep).as_uri()


def busy(error: BaseException) -> bool:
    """Whether a store refused because many write at once: SQLite was locked, or another was first to write the same.

    That passes: sent again a little later, the same is taken. It is no news for a person.
    """
    return any(text in str(error) for text in ("database is locked", "UNIQUE constraint failed"))


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite://").removeprefix("/")).absolute()


def _check_database(path: Path) -> None:
    """MLflow itself would try for minutes to open a database that cannot be opened."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=CHECK_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the MLflow database {path} cannot be written: {error}. Choose another place with --tracking-uri "
            "sqlite:////absolute/path/mlflow.db, or another results folder."
        ) from error


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=CHECK_SECONDS) as answer:
            answer.read()
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise UserError(
            f"no MLflow server answers at {shown(uri)}: {getattr(error, 'reason', error)}. Start one with mlflow "
            "server, correct --tracking-uri, or leave it out to use a SQLite file in the results folder."
        ) from error
