"""HAProxy in front of two sets of servers, blue and green."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from credit_risk.project.host import free_port
from credit_risk.rehearsal.programs import wait_until


@dataclass(frozen=True)
class Server:
    """A container of the API and its slot in HAProxy."""

    name: str
    port: int
    color: str
    slot: int
    image: str

    @property
    def haproxy_name(self) -> str:
        """Backend and server name in HAProxy."""
        return f"{self.color}/server{self.slot}"

    @property
    def url(self) -> str:
        """Address without HAProxy."""
        return f"http://127.0.0.1:{self.port}"


class Balancer:
    """HAProxy, configured at run time through its stats socket."""

    def __init__(self, folder: Path, *, retries: bool = True) -> None:
        """Takes a folder for its files; without retries, a request to a dead server fails."""
        self.port = free_port()
        self._socket, self._shares = folder / "haproxy.sock", folder / "shares.map"
        self._shares.write_text("green 0\n")
        self.environment = {
            "BIND": f"127.0.0.1:{self.port}",
            "SOCKET": str(self._socket),
            "SHARES_MAP": str(self._shares),
            "RATE_LIMIT": "1000000",  # the load generator is a single client
            "RETRIES": "3" if retries else "0",
            "RETRY_ON": "conn-failure empty-response" if retries else "none",
        }

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://127.0.0.1:{self.port}"

    def command(self, command: str) -> str:
        """Sends a command to HAProxy; returns its output."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()

    def is_up(self) -> bool:
        """Whether it accepts commands."""
        with suppress(OSError):
            return bool(self.command("show info"))
        return False

    def add(self, server: Server) -> None:
        """Routes requests to a server, and waits until its health check passes."""
        self.command(f"set server {server.haproxy_name} addr 127.0.0.1 port {server.port}")
        self.command(f"set server {server.haproxy_name} state ready")
        wait_until(lambda: self.status(server)["status"] == "UP", f"HAProxy to find {server.name} healthy")

    def drain(self, server: Server) -> None:
        """Routes no new request to a server, and waits until its requests are finished."""
        self.command(f"set server {server.haproxy_name} state drain")
        wait_until(lambda: self.status(server)["scur"] == "0", f"{server.name} to finish its requests")

    def remove(self, server: Server) -> None:
        """Frees the slot of a server."""
        self.command(f"set server {server.haproxy_name} state maint")

    def set_weight(self, percent: int) -> None:
        """Gives the green set a percentage of all new requests, and the blue one the rest."""
        self.command(f"set map {self._shares} green {percent}")

    def requests(self, color: str) -> tuple[int, int]:
        """Number of requests that a set has received, and of those that failed on it."""
        found = self._statistics(f"{color}/BACKEND")
        errors = sum(int(found[name] or 0) for name in ("hrsp_5xx", "econ", "eresp"))
        return int(found["stot"]), errors

    def status(self, server: Server) -> dict[str, str]:
        """HAProxy's statistics of a server."""
        return self._statistics(server.haproxy_name)

    def _statistics(self, name: str) -> dict[str, str]:
        names, *rows = [line.split(",") for line in self.command("show stat").lstrip("# ").splitlines()]
        found = [dict(zip(names, row, strict=False)) for row in rows]
        return next(one for one in found if f"{one['pxname']}/{one['svname']}" == name)
