"""The image of the API: its size, and the time from `run` until it is ready, with a model baked in.

Writes: benchmarks/results/image.md, unless --no-write is given
Needs:  the image, as built by `7.deploy/build_image.sh IMAGE --build-arg MODEL=6.production/cache`

Usage: uv run benchmarks/image.py [IMAGE] [--no-write]
"""

from credit_risk.core.entry_point import run

import argparse
import json
import os
import statistics
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.project.host import container_tool, free_port

RESULTS = Path(__file__).parent / "results" / "image.md"
STARTS, READY_SECONDS = 7, 30
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")  # noqa: S108
MAX_MEGABYTES, MAX_READY_SECONDS = 600, 3


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=f"{CONTRACT.problem.name}:latest", help="default: %(default)s")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    tool = container_tool()
    megabytes = size(tool, arguments.image) / 1e6
    start(tool, arguments.image)  # cold
    times = [start(tool, arguments.image) for _ in range(STARTS)]
    ready = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
    text = f"""# The image

`uv run benchmarks/image.py`, with {tool} on {os.cpu_count()} cores; ready is the time from `{tool} run` until `/readyz`
answers 200, with the model baked in and one worker, over {STARTS} warm starts.

| what | measured | target |
|---|---|---|
| size, MB | {megabytes:.0f} | ≤ {MAX_MEGABYTES} |
| ready, s: median (fastest to slowest) | {ready} | ≤ {MAX_READY_SECONDS} |
"""
    print(text)
    if not arguments.no_write:
        with replacing(RESULTS) as temporary:
            temporary.write_text(text, encoding="utf-8")


def size(tool: str, image: str) -> int:
    """Bytes of an image, unpacked.

    Raises:
        ProjectError: there is no such image.
    """
    done = subprocess.run([tool, "image", "inspect", image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f"there is no image {image}; build it with 7.deploy/build_image.sh")
    found: Any = json.loads(done.stdout)[0]
    return int(found["Size"])


def start(tool: str, image: str) -> float:
    """Seconds from a container's start until it is ready; it is removed again.

    Raises:
        ProjectError: it is not ready in time.
    """
    port = free_port()
    name = f"image-benchmark-{port}"
    settings = [f"--env={setting}" for setting in ("HOST=127.0.0.1", f"PORT={port}", "WORKERS=1", "DRAIN_SECONDS=0")]
    command = [tool, "run", "--detach", "--name", name, "--network", "host", *HARDENED, "--no-healthcheck", *settings]
    began = time.perf_counter()
    try:
        subprocess.run([*command, image], check=True, capture_output=True)
        while time.perf_counter() - began < READY_SECONDS:
            with suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{port}/readyz", timeout=1).ok:
                    return time.perf_counter() - began
            time.sleep(0.01)
        raise ProjectError(f"{image} is not ready after {READY_SECONDS} s")
    finally:
        subprocess.run([tool, "rm", "--force", name], capture_output=True, check=False)


if __name__ == "__main__":
    run("image", main)
