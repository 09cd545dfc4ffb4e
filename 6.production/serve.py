"""Serves the API: the keeper beside it, and as many workers as are asked for.

A keeper that ends is started again; a worker that ends, too. SIGTERM drains: the API says that it is not ready,
finishes what it has, and ends, and the keeper with it.

Usage: uv run 6.production/serve.py [--host 127.0.0.1] [--port 8000] [--workers 1] [--no-keeper]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn

from credit_risk.core.entry_point import PIPELINE_PID, run
from credit_risk.core.settings import serving_settings
from credit_risk.serving.structured_log import LOG_CONFIG, log

HERE = Path(__file__).parent
PAUSE_SECONDS = 5.0  # before a keeper that has ended is started again


def main() -> None:
    """Starts the keeper and becomes the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer (default: %(default)s)")
    parser.add_argument("--no-keeper", action="store_true", help="serve what the cache holds, and ask no registry")
    arguments = parser.parse_args()
    current = serving_settings()
    # The server ends itself by the signal that stopped it, once it has; the keeper must be stopped first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when metrics are imported: not before this line
        keeper = None if arguments.no_keeper else ModelSync()
        try:
            uvicorn.run(
                "app:app",
                app_dir=str(HERE),
                host=arguments.host,
                port=arguments.port,
                workers=arguments.workers,
                access_log=False,  # the gateway writes it
                server_header=False,
                log_config=LOG_CONFIG,
                timeout_keep_alive=75,  # longer than a balancer's 60, or it would now and then ask a closing connection
                timeout_graceful_shutdown=int(current.request_timeout_seconds) + 1,
            )
        finally:
            if keeper:
                keeper.stop()


class ModelSync:
    """The keeper as a child process, started again whenever it ends."""

    def __init__(self) -> None:
        """Starts it."""
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            environment = os.environ | {PIPELINE_PID: str(os.getpid())}
            self._child = subprocess.Popen([sys.executable, str(HERE / "model_sync.py")], env=environment)
            code = self._child.wait()
            if not self._stopping.wait(PAUSE_SECONDS):
                log.warning("keeper ended, starting it again", code=code)

    def stop(self) -> None:
        """Ends it for good."""
        self._stopping.set()
        if self._child:
            self._child.terminate()
        self._thread.join()


if __name__ == "__main__":
    run("serve", main)
