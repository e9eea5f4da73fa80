"""An S3 server on loopback for tests, which can be told to fail."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

moto = pytest.importorskip("moto.server", reason="needs moto, of the extra dev")
pytest.importorskip("s3fs", reason="needs s3fs, of the extra s3")


class Store:
    """A running server. While ``failing`` is above 0 each request costs one and is answered with an error."""

    def __init__(self) -> None:
        self.failing = 0
        self.requests = 0
        self.address = ""


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(environment: pytest.MonkeyPatch, bucket: str = "bucket") -> Iterator[Store]:
    """The server, with ``bucket`` in it; the environment gets its address and credentials."""
    store = Store()
    application = moto.DomainDispatcherApplication(moto.create_backend_app)

    def answer(request: dict[str, object], start: object) -> object:
        store.requests += 1
        if store.failing > 0:
            store.failing -= 1
            start("503 Slow Down", [("Content-Type", "application/xml")])  # type: ignore[operator]
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
        return application(request, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=_Quiet)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{server.port}"
    for name, value in {
        "AWS_ENDPOINT_URL": store.address,
        "AWS_ACCESS_KEY_ID": "key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        environment.setenv(name, value)
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket=bucket)
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
