"""Free ports and container tools of this machine, for scripts that start servers."""

import os
import shutil
import socket
import subprocess

from credit_risk.core.errors import ProjectError


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
