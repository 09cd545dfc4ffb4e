"""Podman for tests: builds the image of the API, and its base image from this machine if it can't be pulled.

Usage: uv run tests/containers.py [TAG]     build the image
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from projects import REPOSITORY, wait_until

from credit_risk.contract import CONTRACT
from credit_risk.project.host import free_port

DOCKERFILE = (REPOSITORY / "7.deploy" / "Dockerfile").read_text()
PINNED = re.findall(r"^FROM (\S+@sha256:[0-9a-f]{64})", DOCKERFILE, re.MULTILINE)[0]
BASE = f"docker.io/library/{PINNED.partition('@')[0]}"  # a stand-in has another digest
TAG = f"{CONTRACT.problem.name}:test"


def environment(user: int) -> dict[str, str]:
    """The environment of podman: without root, limits need what the machine has (systemd and crun)."""
    root = {"CONTAINERS_CONF": str(REPOSITORY / "tests" / "containers.conf")} if user == 0 else {}
    return os.environ | {"CONTAINER_TOOL": "podman"} | root


ENVIRONMENT = environment(os.getuid())
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PACKAGES = (
    "apt",
    "ca-certificates",
    "libbz2-1.0",
    "libffi8",
    "liblzma5",
    "libsqlite3-0",
    "libssl3",
    "passwd",
    "zlib1g",
)
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")  # noqa: S108

needs_podman = pytest.mark.skipif(
    not (shutil.which("podman") and shutil.which("runc")), reason="podman or runc is not installed"
)
needs_haproxy = pytest.mark.skipif(
    not (shutil.which("haproxy") and shutil.which("h2load")), reason="haproxy or nghttp2-client is not installed"
)


def podman(*arguments: str, check: bool = True, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Runs podman; on failure shows its output, unless `check` is false."""
    command = ["podman", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=seconds)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def has_limits() -> bool:
    """Whether podman can limit CPUs and memory: without root, on cgroup v1, it says so and ignores them."""
    return podman("info", "--format", "{{.Host.CgroupControllers}}").stdout.strip() != "[]"


def build(root: Path = REPOSITORY, tag: str = TAG, *flags: str) -> None:
    """Builds the image with the project's script and this machine's configuration of pip."""
    provide_base()
    mounts = [
        part for path in (CERTIFICATES, "/etc/pip.conf") if Path(path).exists() for part in ("-v", f"{path}:{path}:ro")
    ]
    base = f"--build-context={PINNED}=container-image://{BASE}"
    command = ["7.deploy/build_image.sh", tag, "--pull=never", "--network", "host", base, *mounts, *flags]
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def provide_base() -> None:
    """Pulls the base image, or makes it from this machine's Debian and Python."""
    if podman("image", "exists", BASE, check=False).returncode == 0:
        return
    if podman("pull", "--quiet", BASE, check=False, seconds=300).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        system = Path(folder) / "system"
        copy_debian(system)
        copy_python(system)
        subprocess.run(["ldconfig", "-r", str(system)], check=True)
        clean = ["env", "--ignore-environment", "PATH=/usr/local/bin:/usr/bin"]
        subprocess.run(
            [*clean, "/usr/sbin/chroot", str(system), "python3", "-m", "ensurepip"], check=True, capture_output=True
        )
        (system / "usr" / "local" / "bin" / "pip").symlink_to("pip3")
        archive = Path(folder) / "base.tar"
        subprocess.run(["tar", "-C", str(system), "-cf", str(archive), "."], check=True)
        settings = ["ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["python3"]']
        podman("import", "--quiet", *(f"--change={setting}" for setting in settings), str(archive), BASE)


def copy_debian(system: Path) -> None:
    """Copies the files of Debian's essential packages, of PACKAGES, and of their dependencies."""
    listed = output("dpkg-query", "-W", "-f=${Package} ${Essential}\n").splitlines()
    essential = [line.split()[0] for line in listed if line.endswith(" yes")]
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    unwanted = [f"--no-{kind}" for kind in kinds]
    lines = output("apt-cache", "depends", "--recurse", "--installed", *unwanted, *essential, *PACKAGES).splitlines()
    installed = {line.split()[0] for line in listed}
    packages = sorted({line for line in lines if line in installed})
    for folder in ("bin", "sbin", "lib", "lib64"):
        (system / "usr" / folder).mkdir(parents=True)
        (system / folder).symlink_to(f"usr/{folder}")
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "etc/ssl/certs", "usr/local/bin", "usr/local/lib"):
        (system / folder).mkdir(parents=True, exist_ok=True)
    (system / "tmp").chmod(0o1777)
    for name in output("dpkg", "-L", *packages).splitlines():
        path = Path(name)
        if path.is_file() and not name.startswith(("/usr/share/doc", "/usr/share/man", "/usr/share/locale")):
            target = system / path.parent.resolve().relative_to("/") / path.name  # /bin is /usr/bin
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
    shutil.copytree("/etc/alternatives", system / "etc" / "alternatives", symlinks=True, dirs_exist_ok=True)
    for name in ("awk", "which"):  # created by scripts of packages
        if Path("/usr/bin", name).exists():
            shutil.copy2(f"/usr/bin/{name}", system / "usr" / "bin" / name, follow_symlinks=False)
    for name in ("passwd", "group"):
        shutil.copy(f"/usr/share/base-passwd/{name}.master", system / "etc" / name)
    for name, source in (("shadow", "passwd"), ("gshadow", "group")):
        people = (system / "etc" / source).read_text().splitlines()
        (system / "etc" / name).write_text("".join(f"{line.split(':')[0]}:*:::::::\n" for line in people))
    shutil.copy(CERTIFICATES, system / "etc" / "ssl" / "certs")


def copy_python(system: Path) -> None:
    """Copies this Python to /usr/local, like in the real image."""
    home, local = Path(sys.base_prefix), system / "usr" / "local"
    left_out = shutil.ignore_patterns("site-packages", "test", "idlelib", "tkinter", "__pycache__", "config-3*")
    shutil.copytree(home / "lib" / "python3.11", local / "lib" / "python3.11", symlinks=True, ignore=left_out)
    for library in home.glob("lib/libpython3*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    shutil.copy2(home / "bin" / "python3.11", local / "bin")
    for name in ("python3", "python"):
        (local / "bin" / name).symlink_to("python3.11")


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass
class Container:
    """A running container of the API."""

    name: str
    client: httpx.Client

    def logs(self) -> str:
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def state(self, what: str) -> str:
        return podman("inspect", "--format", f"{{{{.State.{what}}}}}", self.name).stdout.strip()

    def ready(self) -> bool:
        assert self.state("Running") == "true", self.logs()
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False


@contextmanager
def running(image: str = TAG, *flags: str, **environment: str) -> Iterator[Container]:
    """Runs a container like in production, on a free port of loopback, and removes it afterwards."""
    name, port = f"api-test-{uuid.uuid4().hex[:8]}", free_port()
    settings = {"HOST": "127.0.0.1", "PORT": str(port)} | environment
    named = [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
    try:
        podman("run", "--detach", "--name", name, "--network", "host", *HARDENED, *flags, *named, image)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield Container(name, client)
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)


def wait_until_ready(container: Container) -> None:
    wait_until(container.ready, "the container to be ready", 30)


if __name__ == "__main__":
    build(REPOSITORY, *sys.argv[1:2])
