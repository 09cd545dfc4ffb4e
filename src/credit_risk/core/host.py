"""What scripts that start servers ask of this machine."""

import os
import shutil
import socket
import subprocess

from credit_risk.core.errors import ProjectError


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def container_tool() -> str:
    """Docker or podman, whichever answers; CONTAINER_TOOL names one.

    Raises:
        ProjectError: none does.
    """
    for tool in os.environ.get("CONTAINER_TOOL", "docker podman").split():
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0:
            return tool
    raise ProjectError("no container tool answers: start Docker, or install podman and runc")
