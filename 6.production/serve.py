"""Serves the API: any number of workers, and the model sync process.

A process that ends is started again. SIGTERM drains: /readyz answers 503, requests in flight are finished, then all
processes end.

Usage: uv run 6.production/serve.py [--host 127.0.0.1] [--port 8000] [--workers 1] [--no-sync]
"""

from credit_risk.core.entry_point import PIPELINE_PID, run

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn

from credit_risk.project.host import add_server_arguments, check_address
from credit_risk.project.settings import serving_settings
from credit_risk.serving import metrics_files, model_cache
from credit_risk.serving.structured_log import LOG_CONFIG, log

HERE = Path(__file__).parent
RESTART_SECONDS = 5.0  # before a model sync process that has ended is started again


def main() -> None:
    """Starts model sync and runs the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--no-sync", action="store_true", help="serve what is in the cache, without a registry")
    arguments = parser.parse_args()
    current = serving_settings()
    check_address(arguments.host, arguments.port)
    if not arguments.no_sync:
        model_cache.check_folder(current.model_cache)
    # Uvicorn ends itself by the signal that stopped it; the handler lets `finally` stop model sync first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        metrics_files.check_space(Path(folder))
        os.environ[metrics_files.DIRECTORY] = folder  # must be set before the metrics are imported
        sync = None if arguments.no_sync else SyncProcess()
        try:
            uvicorn.run(
                "app:app",
                app_dir=str(HERE),
                host=arguments.host,
                port=arguments.port,
                workers=arguments.workers,
                access_log=False,  # the middleware writes it
                server_header=False,
                log_config=LOG_CONFIG,
                timeout_keep_alive=75,  # longer than a load balancer's 60 s, which must be the one that closes
                timeout_graceful_shutdown=int(current.request_timeout_seconds) + 1,
            )
        finally:
            if sync:
                sync.stop()


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
