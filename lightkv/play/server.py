"""The playground on a port of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from lightkv.core.errors import ConfigError

EXTRA = "play"
PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names that a browser on the same machine asks for."""


def check_extra() -> None:
    """Fail before a model is loaded if the extra is not installed.

    Raises:
        ConfigError: no fastapi or no uvicorn.
    """
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(
                f"the playground needs {name}, which is not installed",
                field="play",
                remedy=f"pip install 'lightkv[{EXTRA}]'",
            )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        ConfigError: no such address here, no such port, or one that is in use.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("ports are from 0 to 65535", field="--port", value=port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            "not an address of this machine",
            field="--host",
            value=host,
            remedy="127.0.0.1 is for this machine alone, 0.0.0.0 for all who can reach it",
        ) from error
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except OSError as error:
        made.close()
        raise ConfigError(
            f"cannot listen on this port of {host} ({error.strerror})",
            field="--port",
            value=port,
            remedy="give another --port; 0 takes one that is free",
        ) from error
    return made


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(made: socket.socket) -> str:
    """What to open in a browser."""
    host, port = made.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(
    models: Sequence[str] = (),
    pipelines: Sequence[Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    dtype: str = "auto",
    device: str | None = None,
    ready: Callable[[str, list[str]], None] = lambda where, names: None,
) -> None:
    """Serve the playground until it is interrupted.

    Args:
        models, pipelines, dtype, device: as of `Offers`.
        host, port: where to listen.
        ready: is told the address and the models' names before the first request is taken.

    Raises:
        ConfigError: the extra `play` is not installed, or nothing can listen there.
        LightKVError: models and pipeline files that cannot be used.
    """
    check_extra()
    import uvicorn

    from lightkv.play.app import build_app
    from lightkv.play.offers import Offers

    with listening(host, port) as made:  # first: loading a model may take minutes
        offers = Offers(models, pipelines, dtype=dtype, device=device)
        app = build_app(offers, LOOPBACK if is_loopback(host) else ())
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        ready(address(made), offers.models)
        server.run(sockets=[made])
