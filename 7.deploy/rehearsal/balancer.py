"""HAProxy, told at run time which servers it has."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rehearsal.programs import wait_until

from credit_risk.core.host import free_port


@dataclass(frozen=True)
class Server:
    """A container of the API, and its place at the balancer."""

    name: str
    port: int
    color: str
    slot: int
    image: str

    @property
    def place(self) -> str:
        """What HAProxy calls it."""
        return f"{self.color}/server{self.slot}"

    @property
    def url(self) -> str:
        """Where it answers without the balancer."""
        return f"http://127.0.0.1:{self.port}"


class Balancer:
    """HAProxy, told at run time which servers it has."""

    def __init__(self, folder: Path, *, retries: bool = True) -> None:
        """Takes the folder of its files; without retries, a request that meets a dead server has failed."""
        self.port = free_port()
        self._socket, self._live = folder / "haproxy.sock", folder / "live.map"
        self._live.write_text("live blue\n")
        self.environment = {
            "BIND": f"127.0.0.1:{self.port}",
            "SOCKET": str(self._socket),
            "LIVE_MAP": str(self._live),
            "RATE_LIMIT": "1000000",  # all clients of the rehearsal are one
            "RETRIES": "3" if retries else "0",
            "RETRY_ON": "conn-failure empty-response" if retries else "none",
        }

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"http://127.0.0.1:{self.port}"

    def tell(self, command: str) -> str:
        """Sends a command to HAProxy; returns its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()

    def answers(self) -> bool:
        """Whether it takes commands."""
        with suppress(OSError):
            return bool(self.tell("show info"))
        return False

    def admit(self, server: Server) -> None:
        """Gives a server requests, and waits until the balancer sees it ready."""
        self.tell(f"set server {server.place} addr 127.0.0.1 port {server.port}")
        self.tell(f"set server {server.place} state ready")
        wait_until(lambda: self.status(server)["status"] == "UP", f"the balancer to see {server.name} ready")

    def drain(self, server: Server) -> None:
        """Gives a server no new request, and waits until it has answered those it has."""
        self.tell(f"set server {server.place} state drain")
        wait_until(lambda: self.status(server)["scur"] == "0", f"{server.name} to finish its requests")

    def forget(self, server: Server) -> None:
        """Its place is free."""
        self.tell(f"set server {server.place} state maint")

    def switch(self, color: str) -> None:
        """Lets blue or green answer from the next request on."""
        self.tell(f"set map {self._live} live {color}")

    def status(self, server: Server) -> dict[str, str]:
        """HAProxy's statistics of a server."""
        names, *rows = [line.split(",") for line in self.tell("show stat").lstrip("# ").splitlines()]
        return next(
            known
            for row in rows
            if (known := dict(zip(names, row, strict=False)))["pxname"] == server.color
            and known["svname"] == f"server{server.slot}"
        )
