"""The servers of the rehearsal, and what is done with them in a release."""

import hashlib
import json
import secrets
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

import requests

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.project.host import free_port
from credit_risk.rehearsal.balancer import Balancer, Server
from credit_risk.rehearsal.programs import call, is_up, wait_until

CRASH_SECONDS = 8  # until the release `crashes` exits
DRAIN_SECONDS = 1  # HAProxy checks four times a second and drops a server after two failures
READY_SECONDS = 30  # a release that is not ready by then is bad
NEVER_READY_SECONDS = 10  # for one that is known not to become ready
MIN_REQUESTS, MAX_FAILED = 20, 0.01  # of the alarm, as in aws/balancer.yaml
FAILS_LATER = """
import http.server, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, left = "HTTP/1.1", 5
    def do_GET(self):
        self.reply(200)
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Handler.left -= 1
        self.reply(200 if Handler.left >= 0 else 500)
    def reply(self, status, body=b'{"probability": 0.5}'):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
RELEASES = {  # lines added to the image under rehearsal
    "next": "LABEL org.opencontainers.image.version=next",
    "never-ready": 'ENTRYPOINT ["sleep", "600"]',
    "fails-smoke": "ENV MAX_BODY_BYTES=8",  # ready, but rejects each request as too large
    "fails-later": f"ENTRYPOINT {json.dumps(['python', '-c', FAILS_LATER])}",
    "crashes": f'ENTRYPOINT ["timeout", "--signal=KILL", "{CRASH_SECONDS}", "/app/7.deploy/start.sh"]',
}


class BadReleaseError(ProjectError):
    """A new server is not ready in time, fails the smoke test or has exited."""


@dataclass
class Fleet:
    """The servers and HAProxy; `remove_all` removes the containers and images."""

    tool: str  # docker or podman
    image: str  # the current release
    registry: str  # address of the MLflow server
    balancer: Balancer
    servers: list[Server] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"rehearsal-{secrets.token_hex(3)}")
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def release(self, name: str) -> str:
        """The image of a release."""
        return f"{self.prefix}:{name}"

    def build_releases(self) -> None:
        """Builds the images of RELEASES."""
        options = ["--format", "docker"] if self.tool == "podman" else []
        for name, line in RELEASES.items():
            command = [self.tool, "build", "--quiet", *options, "--tag", self.release(name), "-"]
            call(command, f"can't build the release {name}", input=f"FROM {self.image}\n{line}\n")

    def start(self, image: str, color: str = "blue") -> Server:
        """Starts a server, waits until it is ready and tests it; HAProxy sends it no requests yet.

        Raises:
            BadReleaseError: it is not ready in time or fails the test; it is removed.
        """
        used = {server.slot for server in self.servers if server.color == color}
        port = free_port()
        server = Server(f"{self.prefix}-{port}", port, color, min({*range(1, 9)} - used), image)
        environment = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WORKERS": "1",
            "APP_ENV": "production",
            "API_KEYS_SHA256": hashlib.sha256(self.key.encode()).hexdigest(),
            "MLFLOW_TRACKING_URI": self.registry,
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        command = [self.tool, "run", "--detach", "--name", server.name, "--network", "host", "--read-only"]
        command += ["--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "512m"]  # noqa: S108
        command += ["--no-healthcheck"]  # HAProxy checks
        command += [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        self.servers.append(server)
        patience = NEVER_READY_SECONDS if image == self.release("never-ready") else READY_SECONDS
        try:
            call([*command, image], f"can't start {server.name}")
            wait_until(lambda: is_up(f"{server.url}/readyz"), f"{server.name} to be ready", patience)
            self.smoke_test(server)
        except ProjectError as error:
            self.stop(server, kill=True)
            raise BadReleaseError(str(error)) from error
        return server

    def start_and_add(self, image: str, color: str = "blue") -> Server:
        """Starts a server and routes requests to it."""
        server = self.start(image, color)
        self.balancer.add(server)
        return server

    def smoke_test(self, server: Server) -> None:
        """Sends the example request to a server.

        Raises:
            ProjectError: the response has no probability.
        """
        headers = {"X-API-Key": self.key}
        response = requests.post(f"{server.url}/predict", json=CONTRACT.example, headers=headers, timeout=5)
        if not response.ok or not 0 <= response.json()["probability"] <= 1:
            raise ProjectError(f"{server.name} responds to the example with {response.status_code}")

    def stop(self, server: Server, *, kill: bool = False) -> None:
        """Stops a server, with SIGTERM like a release or with SIGKILL, and removes it."""
        ending = [self.tool, "kill", "--signal", "KILL"] if kill else [self.tool, "stop", "--time", "15"]
        with suppress(ProjectError):  # it has exited by itself
            call([*ending, server.name], "can't stop")
        call([self.tool, "rm", "--force", server.name], f"can't remove {server.name}")
        self.balancer.remove(server)
        self.servers.remove(server)

    def remove_all(self) -> None:
        """Removes all containers and images of this rehearsal."""
        for server in self.servers:
            subprocess.run([self.tool, "rm", "--force", server.name], capture_output=True, check=False)
        releases = [self.release(name) for name in RELEASES]
        subprocess.run([self.tool, "rmi", "--force", *releases], capture_output=True, check=False)

    def blue(self) -> list[Server]:
        """The servers of the blue set, oldest first."""
        return [server for server in self.servers if server.color == "blue"]

    def reset(self, count: int) -> None:
        """Scales to `count` blue servers of the current image and adds them to HAProxy."""
        for server in self.servers.copy():
            if server.color != "blue" or server.image != self.image or not is_up(f"{server.url}/readyz"):
                self.stop(server)
        for server in self.blue()[count:]:
            self.stop(server)
        while len(self.blue()) < count:
            self.start(self.image)
        for server in self.blue():
            self.balancer.add(server)

    def replace(self, old: Server, image: str) -> None:
        """Drains and stops a server, and starts one of another image; restores the old image if that is bad."""
        self.balancer.drain(old)
        self.stop(old)
        try:
            self.start_and_add(image)
        except BadReleaseError:
            self.start_and_add(old.image)
            raise

    def roll(self, image: str, watch_seconds: float = 2) -> None:
        """Replaces one server after the other and watches the first one; rolls back if the release is bad.

        Raises:
            BadReleaseError: the release was bad; all servers have the old image again.
        """
        first, *others = self.blue()
        try:
            self.replace(first, image)
            self.watch(watch_seconds)
            for server in others:
                self.replace(server, image)
        except BadReleaseError:
            for server in [server for server in self.servers if server.image == image]:
                self.replace(server, first.image)
            raise

    def watch(self, seconds: float) -> None:
        """Checks for a while that no server exits, and that the requests to the green set do not fail.

        Raises:
            BadReleaseError: a server has exited, or the alarm rings.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            received, failed = self.balancer.requests("green")
            if received > MIN_REQUESTS and failed > MAX_FAILED * received:
                raise BadReleaseError(f"alarm: {failed} of {received} requests to green failed")
            for server in self.servers:
                state = [self.tool, "inspect", "--format", "{{.State.Running}}", server.name]
                if call(state, f"{server.name} is gone") != "true":
                    raise BadReleaseError(f"{server.name} has exited")
            time.sleep(0.2)
