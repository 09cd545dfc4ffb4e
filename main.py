"""The whole workflow in one command: pipeline, registration, gates, promotion; then serving.

uv run main.py                runs what has changed, gates the model and promotes it if it passes
uv run main.py --refresh      the same, and first checks whether remote sources have changed
uv run main.py --no-promote   gates the model without promoting it, for a later approval
uv run main.py report         prints where the report is, and the gate's result on the latest model
uv run main.py serve          serves the champion over HTTP
uv run main.py history        lists promotions, rejections and rollbacks
uv run main.py rollback       makes the previous champion the champion again
uv run main.py score FILE     scores a file or folder of any size with the champion
uv run main.py log ship       ships the API's prediction log to Parquet
uv run main.py outcomes FILE  takes in outcomes that have become known
uv run main.py monitor        compares recent predictions with the training period, and alarms
uv run main.py retrain        takes in new data and trains, or recalibrates, by a policy
uv run main.py doctor         checks registry, artifact store and data remote, and says how to fix them
uv run main.py rebuild N      rebuilds version N from its lineage and compares it with the registered version
uv run main.py rename NAME    renames the project: package, imports, pyproject and contract
uv run main.py adopt FILE     writes contract, cleaning, features and parameters for your own file, once
"""

from credit_risk.core.entry_point import describe

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from rich.markup import escape
from rich.table import Table

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import data, relative, root
from credit_risk.core.streams import last_line, make_safe
from credit_risk.project.host import add_server_arguments, check_address
from credit_risk.project.settings import Settings, serving_settings
from credit_risk.runner.run import run_pipeline
from credit_risk.runner.steps import INTERRUPTED, execute, run_log
from credit_risk.runner.summary import print_summary
from credit_risk.runner.terminal import console, print_error

# DVC and MLflow take seconds to import, so they are imported where they are used.

SCRIPTS = {  # commands that are scripts of their own, with their own arguments; delete the line with the script
    "score": ("6.production/score.py", "score a file or folder of any size"),
    "log": ("6.production/ship_log.py", "ship the prediction log"),
    "outcomes": ("6.production/outcomes.py", "take in outcomes that have become known"),
    "monitor": ("6.production/monitor.py", "compare recent predictions with the training period"),
    "retrain": ("6.production/retrain.py", "take in new data and train, or recalibrate, by a policy"),
    "adopt": ("src/credit_risk/adopt/command.py", "write contract, cleaning, features and parameters for your file"),
}


def main() -> None:
    """Parses the command line and runs the command."""
    make_safe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refresh", action="store_true", help="first check whether remote sources have changed")
    parser.add_argument("--no-promote", action="store_true", help="gate the model without promoting it")
    commands = parser.add_subparsers(dest="command", metavar="command")
    serving = commands.add_parser("serve", help="serve the champion over HTTP")
    add_server_arguments(serving)
    commands.add_parser("report", help="print where the report is, and the gate's result")
    commands.add_parser("history", help="list promotions, rejections and rollbacks")
    rolling = commands.add_parser("rollback", help="make the previous champion the champion again")
    rolling.add_argument("--why", default="no reason given", help="reason, for the history")
    commands.add_parser("doctor", help="check registry, artifact store and data remote")
    renaming = commands.add_parser("rename", help="rename the project: package, imports, pyproject and contract")
    renaming.add_argument("name", metavar="NAME", help="lower-case words joined by hyphens")
    rebuilding = commands.add_parser("rebuild", help="rebuild a version from its lineage, and compare")
    rebuilding.add_argument("version", metavar="N", help="number of the version")
    for name, (_, what) in SCRIPTS.items():
        commands.add_parser(name, help=what, add_help=False)
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command not in SCRIPTS:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command and (arguments.refresh or arguments.no_promote):
        parser.error(f"options of {arguments.command} come after its name")
    run: dict[str | None, Callable[[], int]] = {
        None: lambda: run_all(refresh=arguments.refresh, promote=not arguments.no_promote),
        "serve": lambda: serve(arguments.host, arguments.port, arguments.workers),
        "report": show_report,
        "history": show_history,
        "rollback": lambda: rollback(arguments.why),
        "doctor": doctor,
        "rebuild": lambda: rebuild(arguments.version),
        "rename": lambda: rename(arguments.name),
    }
    run |= {name: partial(execute, path, *rest) for name, (path, _) in SCRIPTS.items()}
    try:
        sys.exit(run[arguments.command]())
    except (ProjectError, OSError) as error:
        sentence = describe(error)
        if sentence is None:
            raise
        print_error(sentence)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; run again to resume")
        sys.exit(INTERRUPTED)


def run_all(*, refresh: bool, promote: bool) -> int:
    """Runs pipeline, registration and gates, and prints the summary; returns the exit code."""
    start = time.monotonic()
    outcome = run_pipeline(refresh=refresh, promote=promote)
    return print_summary(outcome, promote=promote, seconds=time.monotonic() - start)


def serve(host: str, port: int, workers: int) -> int:
    """Becomes the API server; needs a champion in the registry, or one in the local cache."""
    current = serving_settings()
    check_address(host, port)
    fill_cache(current)
    listen = ["--host", host, "--port", str(port), "--workers", str(workers)]
    os.chdir(root())
    os.execv(sys.executable, [sys.executable, "6.production/serve.py", *listen])


def fill_cache(current: Settings) -> None:
    """Fetches the champion if there is none in the cache, or if it takes no server to fetch it.

    A server that hangs must not delay a start for which there is a good model: model sync fetches a newer one later.

    Raises:
        ProjectError: there is none in the cache, and none could be fetched.
    """
    from credit_risk.registry.embedded_store import is_embedded
    from credit_risk.serving import model_cache

    model_cache.check_folder(current.model_cache)
    try:
        cached = model_cache.load(current.model_cache).version
    except ProjectError:
        cached = ""
    if cached and not is_embedded(current.mlflow_tracking_uri):
        console.print(f"serving version {cached} from the cache until model sync finds another champion")
        return
    command = [sys.executable, "6.production/model_sync.py", "--once"]
    synced = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
    if synced.returncode:
        sentence = last_line(synced.stderr, "the champion can't be downloaded")
        if not cached:
            raise ProjectError(sentence)
        warning = f"[bold red]warning:[/] {escape(sentence)}; serving version {cached} from the cache"
        console.print(warning, soft_wrap=True)


def show_report() -> int:
    """Prints where report and comparison are, and the performance gate's result on the challenger."""
    from credit_risk.registry.client import CHALLENGER, Registry
    from credit_risk.registry.gate_results import as_table, read_gate_result

    report = data("6.reports", "report.html")
    if not report.exists():
        raise ProjectError(f"{relative(report)} is missing; run the pipeline first: `uv run main.py`")
    console.print(f"report:     {report.as_uri()}", soft_wrap=True)
    registry = Registry()
    challenger = registry.version_of(CHALLENGER)
    result = read_gate_result(challenger, "performance") if challenger else None
    if challenger is None or result is None:
        console.print("the latest model has not been gated yet; run `uv run main.py`")
        return 0
    if page := registry.download_file(challenger, "performance.html", root() / "5.testing" / "reports"):
        console.print(f"comparison: {page.as_uri()}", soft_wrap=True)
    console.print(as_table(result))
    return 0


def show_history() -> int:
    """Prints promotions, rejections and rollbacks, oldest first."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.promotion import history

    table = Table()
    for name in ("time (UTC)", "event", "version", "champion afterwards", "reason", "by"):
        table.add_column(name, overflow="fold")
    for event in history(Registry()):
        time = event.time[:19].replace("T", " ")
        champion = event.champion or "none"
        table.add_row(time, event.kind, event.version, champion, escape(event.reason), escape(event.actor))
    console.print(table if table.row_count else "nothing has been promoted or rejected yet")
    return 0


def rollback(reason: str) -> int:
    """Makes the previous champion the champion again."""
    from credit_risk.registry import promotion
    from credit_risk.registry.client import Registry

    old, new = promotion.rollback(Registry(), reason)
    console.print(f"version {new} is the champion again, instead of {old}; running servers load it within seconds")
    return 0


def doctor() -> int:
    """Prints what works and what does not, with the remedy; returns the exit code: 0 if everything works."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.preflight import check_data_remote, preflight_checks

    failed = False
    for check in [*preflight_checks(Registry()), *check_data_remote()]:
        failed = failed or bool(check.problem)
        status = "[bold red]failed[/]" if check.problem else "ok    "
        console.print(f"{status}  {check.name:<16} {escape(check.problem or check.found)}", soft_wrap=True)
    return 1 if failed else 0


def rebuild(number: str) -> int:
    """Rebuilds a version and prints the differences; returns the exit code: 0 if there are none."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.rebuild import rebuild as rebuild_version

    registry = Registry()
    with run_log() as log, console.status(f"rebuilding version {number}"):
        differences = rebuild_version(registry, registry.version(number), log)
    for difference in differences:
        console.print(f"differs: {escape(difference)}", soft_wrap=True)
    result = "differ from" if differences else "match"
    console.print(f"rebuilt version {number}: metrics, scores and ONNX digest {result} the registered version")
    return 1 if differences else 0


def rename(name: str) -> int:
    """Renames the project."""
    from credit_risk.project.rename import rename as rename_project

    changed = rename_project(CONTRACT.problem, name)
    console.print(f"renamed in {changed} files; check with `git diff`, run `uv run main.py`, then commit")
    return 0


if __name__ == "__main__":
    main()
