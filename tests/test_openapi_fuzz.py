"""The API against its own OpenAPI document: thousands of generated requests, valid and invalid."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from projects import Project
from servers import KEY, KEYS, LONE, running

CASES = 5_000
HOOKS = Path(__file__).with_name("openapi_hooks.py")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_response_is_documented(finished: Project, cache: Path, tmp_path: Path) -> None:
    environment = {"APP_ENV": "production", "API_KEYS_SHA256": KEYS, "MODEL_CACHE": str(cache)}
    environment["MAX_QUEUE_SECONDS"] = "10"  # tests share the machine
    with running(finished, *LONE, **environment) as server:
        result = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"http://127.0.0.1:{server.port}/openapi.json", "--header", f"X-API-Key: {KEY}"),
                *("--checks", "all", "--max-examples", "2400", "--seed", "1", "--no-color"),
            ],
            cwd=tmp_path,
            env=finished.environment | {"SCHEMATHESIS_HOOKS": str(HOOKS)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout[-5000:]
    generated = re.search(r"(\d+) generated", result.stdout)
    assert generated, result.stdout[-5000:]
    assert int(generated[1]) >= CASES
