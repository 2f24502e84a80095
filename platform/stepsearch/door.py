"""The door of a Ray cluster: a local one lets its own process in, others ask for a token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepsearch.errors import UserError

_CREDENTIALS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def on_loopback() -> Iterator[None]:
    """A cluster that is started in the block has the address 127.0.0.1, as on macOS and Windows;
    elsewhere Ray listens on every network that there is, and takes no argument against it."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def own_token() -> Iterator[None]:
    """What is started in the block has a new token, whatever environment and ~/.ray say.

    Ray keeps it in the memory of its processes; later this process's environment is as before.
    """
    before = {name: os.environ.pop(name) for name in _CREDENTIALS if name in os.environ}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        reread_credentials()
        yield
    finally:
        for name in _CREDENTIALS:
            os.environ.pop(name, None)
        os.environ |= before


def reread_credentials() -> None:
    """Ray has read the environment when it was imported. The mode first, or a thread of Ray's that
    still runs would look for a token that is gone, and abort."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def own_folder() -> Path:
    """For the cluster's logs and sockets: Ray lets everybody write where it makes them."""
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"stepsearch-{os.getuid()}"  # noqa: S108
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()  # somebody else may have made it
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or folder.is_symlink():
        raise UserError(f"{folder} must be a folder that only you can enter: remove it")
    return folder


def check_token(address: str) -> None:
    """Ray itself would try for 20 s, and without any token abort this process.

    Raises Ray's AuthenticationError when the cluster at `host:port` refuses the token.
    """
    import grpc
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    ensure_token_if_auth_enabled(create_token_if_missing=False)
    with init_grpc_channel(address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=10)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise AuthenticationError(error.details()) from None
            raise ConnectionError(error.details()) from None
