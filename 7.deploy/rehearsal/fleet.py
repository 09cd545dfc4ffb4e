"""The servers: containers of the API, and the steps of a release on them."""

import hashlib
import json
import secrets
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

import requests
from rehearsal.balancer import Balancer, Server
from rehearsal.programs import answers, call, wait_until

from credit_risk.core.errors import ProjectError
from credit_risk.core.host import free_port
from credit_risk.core.paths import root

EXAMPLE = "6.production/example.json"
CRASH_SECONDS = 8  # from its start until the crashing release crashes
DRAIN_SECONDS = 1  # the balancer looks four times a second, and believes the second look
READY_SECONDS = 15  # a release whose server is not ready by then is bad
# Releases, as what they change in the image that is rehearsed.
RELEASES = {
    "next": "LABEL org.opencontainers.image.version=next",
    "never-ready": 'ENTRYPOINT ["sleep", "600"]',
    "fails-smoke": "ENV MAX_BODY_BYTES=8",  # ready, and refuses every application as too large
    "crashes": f'ENTRYPOINT ["timeout", "--signal=KILL", "{CRASH_SECONDS}", "/app/7.deploy/start.sh"]',
}


class BadReleaseError(ProjectError):
    """A new server is not ready in time, or answers wrongly, or has ended."""


@dataclass
class Fleet:
    """The servers and the balancer before them; all that is named here is removed by `remove_all`."""

    tool: str  # docker or podman
    image: str  # the release that serves now
    registry: str  # address of the MLflow server
    balancer: Balancer
    servers: list[Server] = field(default_factory=list)
    mark: str = field(default_factory=lambda: f"rehearsal-{secrets.token_hex(3)}")  # in the name of all that is made
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    # Images and servers.

    def release(self, name: str) -> str:
        """The image of a release."""
        return f"{self.mark}:{name}"

    def build_releases(self) -> None:
        """Builds the releases on top of the image."""
        form = ["--format", "docker"] if self.tool == "podman" else []
        for name, change in RELEASES.items():
            command = [self.tool, "build", "--quiet", *form, "--tag", self.release(name), "-"]
            call(command, f"the release {name} can't be built", input=f"FROM {self.image}\n{change}\n")

    def start(self, image: str, color: str = "blue") -> Server:
        """Starts a server; it gets no request yet."""
        taken = {server.slot for server in self.servers if server.color == color}
        slot = next(number for number in range(1, 9) if number not in taken)
        port = free_port()
        server = Server(f"{self.mark}-{port}", port, color, slot, image)
        environment = {
            "HOST": "127.0.0.1",
            "PORT": str(server.port),
            "WORKERS": "1",
            "APP_ENV": "production",
            "API_KEYS_SHA256": hashlib.sha256(self.key.encode()).hexdigest(),
            "MLFLOW_TRACKING_URI": self.registry,
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        command = [self.tool, "run", "--detach", "--name", server.name, "--network", "host", "--read-only"]
        command += ["--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "512m"]  # noqa: S108
        command += ["--no-healthcheck"]  # the balancer looks
        command += [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        self.servers.append(server)
        call([*command, image], f"{server.name} can't be started")
        return server

    def stop(self, server: Server, *, kill: bool = False) -> None:
        """Ends a server, with SIGTERM as a release does, and removes it."""
        ending = [self.tool, "kill", "--signal", "KILL"] if kill else [self.tool, "stop", "--time", "15"]
        with suppress(ProjectError):  # it has ended by itself
            call([*ending, server.name], "can't be ended")
        call([self.tool, "rm", "--force", server.name], f"{server.name} can't be removed")
        self.balancer.forget(server)
        self.servers.remove(server)

    def remove_all(self) -> None:
        """Removes all containers and images of this rehearsal."""
        for server in self.servers:
            subprocess.run([self.tool, "rm", "--force", server.name], capture_output=True, check=False)
        releases = [self.release(name) for name in RELEASES]
        subprocess.run([self.tool, "rmi", "--force", *releases], capture_output=True, check=False)

    def start_ready(self, image: str, color: str = "blue") -> Server:
        """Starts a server, and waits until it is ready and answers rightly; one that isn't is removed.

        Raises:
            BadReleaseError: it isn't in time, or doesn't.
        """
        server = self.start(image, color)
        try:
            wait_until(lambda: answers(f"{server.url}/readyz"), f"{server.name} to be ready", READY_SECONDS)
            self.smoke_test(server)
        except ProjectError as error:
            self.stop(server, kill=True)  # nobody waits for an answer of it
            raise BadReleaseError(str(error)) from error
        return server

    def smoke_test(self, server: Server) -> None:
        """Asks a server about the example.

        Raises:
            ProjectError: it doesn't answer, or not with a probability.
        """
        example = json.loads((root() / EXAMPLE).read_text())
        answer = requests.post(f"{server.url}/predict", json=example, headers={"X-API-Key": self.key}, timeout=5)
        if not answer.ok or not 0 <= answer.json()["probability_of_default"] <= 1:
            raise ProjectError(f"{server.name} answers the example with {answer.status_code}")

    def running(self, server: Server) -> bool:
        """Whether a server's container has not ended."""
        state = [self.tool, "inspect", "--format", "{{.State.Running}}", server.name]
        return call(state, f"{server.name} is gone") == "true"

    def blue(self) -> list[Server]:
        """The servers of the blue set, oldest first."""
        return [server for server in self.servers if server.color == "blue"]

    def reset(self, count: int) -> None:
        """Brings the fleet to `count` blue servers of the current image, admitted."""
        for server in self.servers.copy():
            if server.color != "blue" or server.image != self.image or not answers(f"{server.url}/readyz"):
                self.stop(server)
        for server in self.blue()[count:]:
            self.stop(server)
        while len(self.blue()) < count:
            self.start_ready(self.image)
        for server in self.blue():
            self.balancer.admit(server)

    # Steps of a release.

    def replace(self, old: Server, image: str) -> None:
        """Drains, stops, starts, waits, admits; with a bad release, starts the old one again and says so."""
        self.balancer.drain(old)
        self.stop(old)
        try:
            new = self.start_ready(image)
        except BadReleaseError:
            self.balancer.admit(self.start_ready(old.image))
            raise
        self.balancer.admit(new)

    def roll(self, image: str, watched_seconds: float = 2) -> None:
        """Replaces one server after the other; watches the first before it goes on; goes back if one is bad.

        Raises:
            BadReleaseError: the release was bad; all servers are of the old image again.
        """
        first, *others = before = self.blue()
        try:
            self.replace(first, image)
            self.watch(watched_seconds)
            for server in others:
                self.replace(server, image)
        except BadReleaseError:
            for server in [server for server in self.servers if server.image == image]:
                self.replace(server, before[0].image)
            raise

    def watch(self, seconds: float) -> None:
        """Looks for a while whether a server ends.

        Raises:
            BadReleaseError: one has.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ended := [server.name for server in self.servers if not self.running(server)]:
                raise BadReleaseError(f"{ended[0]} has ended")
            time.sleep(0.2)
