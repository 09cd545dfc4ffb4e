"""Addresses, ports and container tools of this machine, for scripts that start servers."""

import argparse
import os
import shutil
import socket
import subprocess
from collections.abc import Callable

from credit_risk.core.errors import ProjectError


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --host, --port and --workers."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    port = _whole_number(65_535)
    parser.add_argument("--port", type=port, default=8000, help="port to listen on (default: %(default)s)")
    workers = _whole_number(1_000)
    parser.add_argument("--workers", type=workers, default=1, help="number of worker processes (default: %(default)s)")


def _whole_number(high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:20]) <= high):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {high}, and is '{text}'")
        return int(text)

    return parse


def check_address(host: str, port: int) -> None:
    """Checks, before anything is loaded, that a server can listen at an address.

    Raises:
        ProjectError: there is no such host, it is another machine's, or the port is in use or reserved.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ProjectError(f"--host {host}: there is no host with this name") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            listener.bind(address)
        except OSError as error:
            raise ProjectError(
                f"can't listen on {host}, port {port}: {error.strerror}; choose another --port or --host"
            ) from error


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def container_tool() -> str:
    """The first of docker and podman that works; CONTAINER_TOOL names another.

    Raises:
        ProjectError: none works.
    """
    for tool in os.environ.get("CONTAINER_TOOL", "docker podman").split():
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0:
            return tool
    raise ProjectError("no container tool works: start Docker, or install podman and runc")
