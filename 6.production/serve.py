"""Serves the API: any number of workers, and the model sync process.

A process that ends is started again. SIGTERM drains: /readyz answers 503, requests in flight are finished, then all
processes end.

With INTERNAL_PORT, workers listen there too; only there they answer /metrics and /status.

Usage: uv run 6.production/serve.py [--host 127.0.0.1] [--port 8000] [--workers 1] [--root-path /prefix] [--no-sync]
"""

from credit_risk.core.entry_point import PIPELINE_PID, run

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from credit_risk.core.errors import ProjectError
from credit_risk.project.host import add_server_arguments, check_address
from credit_risk.project.settings import Settings, serving_settings
from credit_risk.serving import metrics_files, model_cache
from credit_risk.serving.http_protocol import Protocol
from credit_risk.serving.log_writer import logged_fields
from credit_risk.serving.structured_log import LOG_CONFIG, log

HERE = Path(__file__).parent
STARTUP_FAILURE = 3  # uvicorn's own exit code
RESTART_SECONDS = 5.0  # before a model sync process that has ended is started again


def main() -> None:
    """Starts model sync and runs the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--no-sync", action="store_true", help="serve what is in the cache, without a registry")
    parser.add_argument(
        "--root-path", default="", help="path prefix under which a proxy shows the API, such as /credit"
    )
    arguments = parser.parse_args()
    current = serving_settings()
    if not re.fullmatch(r"(/[\w.~-]+)*", arguments.root_path):
        raise ProjectError(f"--root-path {arguments.root_path} must begin with a slash and not end with one")
    logged_fields(current)
    check_address(arguments.host, arguments.port)
    if current.internal_port:
        check_address(arguments.host, current.internal_port)
    if not arguments.no_sync:
        model_cache.check_folder(current.model_cache)
    # Uvicorn ends itself by the signal that stopped it; the handler lets `finally` stop model sync first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        metrics_files.check_space(Path(folder))
        os.environ[metrics_files.DIRECTORY] = folder  # must be set before the metrics are imported
        sync = None if arguments.no_sync else SyncProcess()
        try:
            serve(arguments, current)
        finally:
            if sync:
                sync.stop()


def serve(arguments: argparse.Namespace, current: Settings) -> None:
    """Runs the workers until a signal ends them."""
    config = uvicorn.Config(
        "app:app",
        http=Protocol,
        ws="none",
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        root_path=arguments.root_path,
        access_log=False,  # the middleware writes it
        server_header=False,
        log_config=LOG_CONFIG,
        timeout_keep_alive=75,  # longer than a load balancer's 60 s, which must be the one that closes
        timeout_graceful_shutdown=int(current.request_timeout_seconds) + 1,
    )
    sockets = [config.bind_socket()]
    if current.internal_port:
        config.port = current.internal_port
        sockets.append(config.bind_socket())
    if arguments.workers > 1:
        Multiprocess(config, sockets).run()
        return
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class SyncProcess:
    """Model sync as a child process that is started again whenever it ends."""

    def __init__(self) -> None:
        """Starts it."""
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="model sync", daemon=True)
        self._thread.start()

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            environment = os.environ | {PIPELINE_PID: str(os.getpid())}
            try:
                self._child = subprocess.Popen([sys.executable, str(HERE / "model_sync.py")], env=environment)
                code: int | str = self._child.wait()
            except OSError as error:  # too many open files, for example: a later start may succeed
                code = str(error)
            if not self._stopping.wait(RESTART_SECONDS):
                log.warning("model sync ended, starting it again", code=code)

    def stop(self) -> None:
        """Ends it for good."""
        self._stopping.set()
        while self._thread.is_alive():  # a child may just be starting
            if self._child:
                self._child.terminate()
            self._thread.join(0.1)


if __name__ == "__main__":
    run("serve", main)
