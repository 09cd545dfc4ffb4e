"""Rehearses releases on this machine: containers of the API behind HAProxy, under a constant load.

Each scenario performs a release, a scaling or a failure while a client sends POST /predict at a constant rate, and
reports how many requests failed. The steps of CodeDeploy (drain, stop, start, wait, test, roll back) are performed one
by one; a shift of the traffic goes through the same steps as in release.py.

Reads:  1.data/5.model, 1.data/6.reports and others, like stage 7: run `uv run main.py` first
Writes: a JSON line per scenario and a table; with --report, the table as a Markdown page
Needs:  Linux, Docker or podman, and Debian's packages haproxy and nghttp2-client

Usage: uv run 7.deploy/rehearse.py [all | SCENARIO …] [--image IMAGE] [--rate 600] [--report FILE]
"""

from credit_risk.core.entry_point import run

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.project.host import container_tool, free_port
from credit_risk.project.settings import Settings
from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry
from credit_risk.rehearsal.balancer import Balancer
from credit_risk.rehearsal.fleet import Fleet
from credit_risk.rehearsal.programs import call, is_up, log, process, wait_until
from credit_risk.rehearsal.results import report, table
from credit_risk.rehearsal.scenarios import SCENARIOS, Rehearsal

PROGRAMS = {"haproxy": "haproxy", "h2load": "nghttp2-client"}  # program: Debian's package


def main() -> None:
    """Runs the scenarios and prints their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=["all", *SCENARIOS], default="all", metavar="SCENARIO")
    parser.add_argument("--image", help="image of the API (default: built from this commit)")
    parser.add_argument("--rate", type=int, default=600, help="requests per second (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"  # Debian's haproxy
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    results = []
    with prepare(arguments.image, arguments.rate) as rehearsal:
        for name in SCENARIOS if "all" in arguments.scenarios else arguments.scenarios:
            log(name)
            results.append(rehearsal.run(name))
            print(json.dumps(asdict(results[-1])), flush=True)
    log(table(results))
    if arguments.report:
        with replacing(arguments.report) as temporary:
            temporary.write_text(report(results, arguments.rate), encoding="utf-8")
    if bad := [f"{result.scenario}: {result.problem}" for result in results if result.problem]:
        raise ProjectError("; ".join(bad))


@contextmanager
def prepare(image: str | None, rate: int) -> Iterator[Rehearsal]:
    """Starts everything that a scenario needs, and removes it afterwards.

    Raises:
        ProjectError: a program is missing; names its package.
    """
    if missing := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        raise ProjectError(f"a program is missing: apt-get install {' '.join(missing)}")
    tool = container_tool()
    if not image:
        image = f"{CONTRACT.problem.name}:rehearsal"
        log(f"building {image}")
        build = [str(root() / "7.deploy" / "build_image.sh"), image]
        call(build, "can't build the image", env=os.environ | {"CONTAINER_TOOL": tool})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        log("starting the registry")
        registry = stack.enter_context(registry_server(folder))
        fleet = Fleet(tool, image, registry.uri, Balancer(folder))
        stack.callback(fleet.remove_all)
        fleet.build_releases()
        yield Rehearsal(folder, rate, registry, fleet)


@contextmanager
def registry_server(folder: Path) -> Iterator[Registry]:
    """Starts an MLflow server with the model of the last pipeline run as champion, and again as version 2.

    Gates are skipped: only the rehearsal uses this registry.
    """
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with process(command, folder, **quiet) as server:
        wait_until(lambda: server.poll() is not None or is_up(f"{uri}/health"), "the MLflow server", 90)
        stage = [sys.executable, str(root() / "4.dvc_pipeline" / "7.register_model.py")]
        problem = "no model to rehearse with; run `uv run main.py` first"
        call(stage, problem, cwd=root(), env=os.environ | {"MLFLOW_TRACKING_URI": uri})
        registry = Registry(Settings(mlflow_tracking_uri=uri))
        first = registry.version_of(CHALLENGER)
        if first is None:
            raise ProjectError(problem)
        source = str(registry.client.get_model_version(CONTRACT.problem.model_name, first.number).source)
        registry.create_version(source, first.run_id, source.removeprefix("models:/"), first.tags)
        registry.set_alias(CHAMPION, first.number)
        yield registry


if __name__ == "__main__":
    run("rehearse", main)
