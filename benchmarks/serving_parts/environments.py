"""Virtual environments of the servers, kept in benchmarks/.environments."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from serving_parts.peers import LOCK, NEEDS, Peer

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".environments"
MB = 1_000_000


def build(name: str, model: Path) -> None:
    """Builds an environment unless it is up to date; packages are not newer than the project's own.

    Args:
        name: one of NEEDS.
        model: folder of the version's files, with the requirements that some of them need.

    Raises:
        ProjectError: a package can't be installed.
    """
    needs, folder = NEEDS[name], ENVIRONMENTS / name
    newest = tomllib.loads((root() / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["exclude-newer"]
    pinned = (model / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = [*needs.packages, *(pin for pin in pinned if pin.partition("==")[0] in needs.model)]
    locked = (root() / LOCK).read_text(encoding="utf-8") if LOCK in wanted else ""
    recipe = json.dumps([wanted, locked, newest, platform.python_version()])
    digest, made = hashlib.sha256(recipe.encode()).hexdigest(), folder / "made_from.sha256"
    if made.exists() and made.read_text() == digest:
        return
    print(f"building the environment {name}", file=sys.stderr, flush=True)
    uv = os.environ.get("UV") or shutil.which("uv") or "uv"
    install = f"pip install --quiet --compile-bytecode --exclude-newer {newest} --python".split()
    install = [uv, *install, str(folder)]
    commands = [
        [uv, "venv", "--quiet", "--clear", "--python", platform.python_version(), str(folder)],
        [*install, *wanted],
    ]
    if needs.project:  # editable, so that it is always up to date
        commands.append([*install, "--no-deps", "--editable", str(root())])
    for command in commands:
        done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[:300]
            raise ProjectError(f"the environment {name} can't be built: {reason}")
    made.write_text(digest)


def site_packages(environment: str) -> Path:
    """Where an environment's packages are."""
    return next((ENVIRONMENTS / environment / "lib").glob("python*/site-packages"))


def installed_mb(environment: str) -> float:
    """Size of an environment's packages, without compiled bytecode."""
    files = site_packages(environment).rglob("*")
    return sum(it.lstat().st_size for it in files if it.is_file() and it.parent.name != "__pycache__") / MB


def version(peer: Peer) -> str:
    """The peer's package and its version."""
    path = [str(site_packages(peer.environment))]
    return next(f"{it.name} {it.version}" for it in importlib.metadata.distributions(name=peer.package, path=path))
