"""The MLflow store: its address, whether it works, and connecting to it."""

import contextlib
import importlib
import logging
import os
import sqlite3
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from diffcps.errors import UserError
from diffcps.storage import proxies
from diffcps.text import first_line, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these when it is used. By default it reports usage over the network, retries an unreachable server for
# minutes, and prints two lines for every run that ends.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

CHECK_SECONDS = 5.0
"""Seconds in which a store must answer before a sweep starts."""


def default_uri(results: Path) -> str:
    """The SQLite store in a results folder. The URI is absolute because workers have another current folder."""
    return _uri(results.resolve() / "mlflow.db")


def absolute(uri: str) -> str:
    """The URI by which processes with another current folder find the same store."""
    return _uri(_database(uri)) if uri.startswith("sqlite://") and "?" not in uri else uri


def is_new(uri: str) -> bool:
    """Whether the store is a database that does not exist yet; ``check`` would create it."""
    return uri.startswith("sqlite://") and "?" not in uri and not _database(uri).exists()


def check(uri: str, patience: float = CHECK_SECONDS) -> str:
    """Check that a store answers and can be written, and set up a new database. Call it once, before workers start.

    Args:
        uri: of the store.
        patience: seconds in which it must answer.

    Returns:
        The absolute URI to use from now on.

    Raises:
        UserError: the store does not exist, cannot be written, or is not an MLflow store.
    """
    scheme = uri.partition("://")[0]
    if scheme == "sqlite":
        if "?" in uri:
            raise UserError(
                f"tracking URI {redacted(uri)}: an SQLite store takes no options after ?. If ? belongs to the name of the file, "
                "write %3F."
            )
        uri = absolute(uri)
        _check_database(_database(uri), patience)
    elif scheme in ("http", "https"):
        if redacted(uri) != uri:
            raise UserError(
                f"tracking URI {redacted(uri)}: a password in an address is visible in the process list and is stored with the "
                "results. Remove it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on every node."
            )
        _check_server(uri, patience)
    else:
        raise UserError(
            f"tracking URI {redacted(uri)}: use sqlite:////absolute/path/mlflow.db or the http(s):// address of an MLflow "
            "server. For another database or a folder, start a server on it: mlflow server --backend-store-uri …"
        )
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # any error of the store's driver: name the store
        raise UserError(
            f"the MLflow store {redacted(uri)} does not work: {first_line(error)} If an older MLflow made it, run "
            "mlflow db upgrade on it; if it asks for a password, set MLFLOW_TRACKING_USERNAME and _PASSWORD."
        ) from error
    if uri.startswith("sqlite:") and not _database(uri).stat().st_size:  # SQLAlchemy before 2.1 takes % as it is
        raise UserError(
            f"MLflow has opened another file than {_database(uri)}: the SQLAlchemy of this environment cannot open a path "
            "with % or ? in it. Update it (pip install 'sqlalchemy>=2.1'), or choose another results folder."
        )
    return uri


def import_ahead(uri: str) -> None:
    """Import what ``connect`` needs of MLflow for a store, which takes seconds, beside what this process does next."""
    module = "mlflow.store.tracking.sqlalchemy_store" if uri.startswith("sqlite:") else "mlflow"
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


def connect(uri: str) -> "MlflowClient":
    """A client of the store. MLflow takes seconds to import, so it is imported here."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # errors of a database are also raised; MLflow would print a page for each
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    proxies.avoid_locally(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def download(address: str, uri: str | None, results: Path, folder: Path) -> Path:
    """Fetch a model of MLflow's, such as ``models:/hopper-medium-v2@best``, into ``folder``; returns its path.

    ``uri`` is the store; by default ``$MLFLOW_TRACKING_URI``, or the SQLite file in ``results``. Raises ``UserError`` if
    there is no store or no such model.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(results)
    if is_new(uri):
        raise UserError(
            f"{address}: there is no MLflow store at {redacted(uri)}. Give its address with --tracking-uri."
        )
    uri = check(uri)
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(_location(address, uri), dst_path=str(folder), tracking_uri=uri))
    except Exception as error:  # any error of the store or its driver: name the request
        there = _registered(uri) if address.startswith("models:/") else ""
        raise UserError(
            f"MLflow at {redacted(uri)} cannot provide {address}: {first_line(error).rstrip('.')}.{there}"
        ) from error


def _registered(uri: str) -> str:
    """A sentence on the models in the registry; empty if it cannot be read."""
    from mlflow import MlflowClient

    with contextlib.suppress(Exception):  # the first error is the one to report
        names = [model.name for model in MlflowClient(uri, uri).search_registered_models(max_results=50)]
        return f" Registered models: {', '.join(names)}." if names else " No model is registered there."
    return ""


def _location(address: str, uri: str) -> str:
    """Location of a model's files, from this store; MLflow itself would ask the store of the process."""
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
    """Location of a sweep's artifacts: beside the database; ``None`` if a server decides."""
    if not uri.startswith("sqlite:"):
        return None
    return (_database(uri).parent / "mlartifacts" / sweep).as_uri()


def busy(error: BaseException) -> bool:
    """Whether a store failed because several processes wrote at once; a later request succeeds, so nobody need be told."""
    return any(text in str(error) for text in ("database is locked", "UNIQUE constraint failed"))


def _uri(database: Path) -> str:
    """SQLAlchemy, by which MLflow opens it, takes % for an escape and ? for the beginning of options."""
    return f"sqlite:///{str(database).replace('%', '%25').replace('?', '%3F')}"


def _database(uri: str) -> Path:
    """The file of an SQLite URI, as SQLAlchemy reads it."""
    return Path(unquote(uri.removeprefix("sqlite://").removeprefix("/"))).absolute()


def _check_database(path: Path, patience: float) -> None:
    """Open the database for writing: MLflow itself would retry for minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=patience)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the MLflow database {path} cannot be written: {error}. Choose another one with --tracking-uri "
            "sqlite:////absolute/path/mlflow.db, or another results folder."
        ) from error


def _check_server(uri: str, patience: float) -> None:
    proxies.avoid_locally(uri)
    try:
        with urllib.request.urlopen(f"{redacted(uri).rstrip('/')}/health", timeout=patience) as answer:
            answer.read()
    except (OSError, ValueError, urllib.error.URLError) as error:
        host, proxy = urllib.parse.urlsplit(uri).hostname, proxies.used(uri)
        through = f" through the proxy {proxy}" if proxy else ""
        remedy = f" If it is in your own network, set no_proxy={host} on every node." if proxy else ""
        raise UserError(
            f"no MLflow server answers at {redacted(uri)}{through}: {getattr(error, 'reason', error)}.{remedy} Start one with "
            "mlflow server, correct --tracking-uri, or omit it to use a SQLite file in the results folder."
        ) from error
