"""The whole workflow in one command: pipeline, registration, gates, promotion; then serving.

uv run main.py                runs what has changed, gates the model and promotes it if it passes
uv run main.py --refresh      the same, and first checks whether remote sources have changed
uv run main.py --no-promote   gates the model without promoting it, for a later approval
uv run main.py report         prints where the report is, and the gate's result on the latest model
uv run main.py serve          serves the champion over HTTP
uv run main.py history        lists promotions, rejections and rollbacks
uv run main.py rollback       makes the previous champion the champion again
uv run main.py score FILE     scores a file or folder of any size with the champion
uv run main.py doctor         checks registry, artifact store and data remote, and says how to fix them
uv run main.py rebuild N      rebuilds version N from its lineage and compares it with the registered version
uv run main.py rename NAME    renames the project: package, imports, pyproject and contract
"""

from credit_risk.core.entry_point import prepare_children

import argparse
import json
import logging
import os
import runpy
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, replacing
from credit_risk.core.paths import data, relative, root
from credit_risk.project.settings import settings

# DVC and MLflow take seconds to import, so they are imported where they are used.
if TYPE_CHECKING:
    from dvc.repo import Repo

    from credit_risk.registry.gating import Outcome

PIPELINE = "4.dvc_pipeline/dvc.yaml"
LOG = "4.dvc_pipeline/last_run.log"  # all output of stages and gates
INTERRUPTED = 130  # exit code after Ctrl-C
END_SECONDS = 5  # for children to end after SIGTERM
NEXT_COMMANDS = """next:
  uv run main.py serve                  serve the champion on http://127.0.0.1:8000 (a page; docs at /docs), then
  curl -s localhost:8000/predict -H 'content-type: application/json' -d @6.production/example.json
  uv run main.py history                promotions, rejections and rollbacks
  uv run mlflow ui --backend-store-uri sqlite:///3.experiments/mlflow.db     runs and versions in a browser"""
SCRIPTS = {  # commands that are scripts of their own, with their own arguments; delete the line with the script
    "score": ("6.production/score.py", "score a file or folder of any size"),
}
console = Console(file=os.fdopen(os.dup(1), "w", encoding="utf-8"), highlight=False)  # stays when output is redirected


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refresh", action="store_true", help="first check whether remote sources have changed")
    parser.add_argument("--no-promote", action="store_true", help="gate the model without promoting it")
    commands = parser.add_subparsers(dest="command", metavar="command")
    serving = commands.add_parser("serve", help="serve the champion over HTTP")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serving.add_argument("--workers", type=int, default=1, help="number of worker processes (default: %(default)s)")
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
    if arguments.command in SCRIPTS:
        sys.exit(execute(SCRIPTS[arguments.command][0], *rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
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
    try:
        sys.exit(run[arguments.command]())
    except ProjectError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; run again to resume")
        sys.exit(INTERRUPTED)


def run_all(*, refresh: bool, promote: bool) -> int:
    """Runs pipeline, registration and gates, and prints the summary; returns the exit code."""
    start = time.monotonic()
    prepare_children()
    write_example()
    forced = refresh and sources_changed()
    stages = yaml.safe_load((root() / PIPELINE).read_text(encoding="utf-8"))["stages"]
    with (root() / LOG).open("w", encoding="utf-8") as log, redirected_output(log):
        steps = Steps(log)
        with open_repository() as repo:
            threading.Thread(target=prepare_gates, daemon=True).start()
            for number, stage in enumerate(stages):
                steps.run_stage(repo, stage, force=forced and number == 0)
        from credit_risk.registry.client import Registry
        from credit_risk.registry.gating import register_and_gate

        outcome = register_and_gate(Registry(), steps.run_script, promote=promote)
    if not steps.finished:
        console.print("nothing has changed since the last run")
    return print_summary(outcome, promote=promote, seconds=time.monotonic() - start)


def open_repository() -> "Repo":
    """The DVC repository; without git, as in an unpacked archive, DVC runs too."""
    from dvc.repo import Repo
    from dvc.scm import SCMError

    logging.getLogger("dvc").setLevel(logging.ERROR)  # so that a stage's last line is its own
    try:
        repo = Repo(str(root()))
    except SCMError:
        repo = Repo(str(root()), config={"core": {"no_scm": True}})
    repo.scm_context.quiet = True
    return repo


def prepare_gates() -> None:
    """Opens the registry and imports what the performance gate needs, which takes seconds, while the first stages run.

    Errors are reported when the registry is used.
    """
    import credit_risk.data.splits
    import credit_risk.evaluation.leakage  # noqa: F401
    from credit_risk.registry.client import Registry

    try:
        Registry().experiment_id()
    except ProjectError:
        return


def write_example() -> None:
    """Writes the example request of the contract, which the readme and the summary use."""
    path = root() / "6.production" / "example.json"
    text = json.dumps(CONTRACT.example, indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def sources_changed() -> bool:
    """Whether a source that DVC does not track differs from what stage 1 has read; prints which."""
    from credit_risk.data.sources import changed, expand

    manifest = data("1.raw", "manifest.json")
    if not manifest.exists():
        return False  # stage 1 runs anyway
    known = {entry["source"]: entry for entry in read_json(manifest)}
    sources = {source.name: source for source in expand(params.raw("data").get("sources", []))}
    names = [name for name, source in sources.items() if name not in known or changed(source, known[name])]
    names += [name for name in known if name not in sources]
    for name in names:
        console.print(f"source {name} has changed")
    return bool(names)


@contextmanager
def redirected_output(log: IO[str]) -> Iterator[None]:
    """Sends the output of this process and of its children to a file, except what `console` prints."""
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    for descriptor, _ in saved:
        os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)


class Steps:
    """Runs stages and gates, whose output goes to the log; prints a line for each that has run."""

    def __init__(self, log: IO[str]) -> None:
        """Takes the log."""
        self.finished: list[str] = []
        self._log = log

    def run_stage(self, repo: "Repo", name: str, *, force: bool) -> None:
        """Runs a stage of the pipeline if its inputs have changed.

        Raises:
            ProjectError: the stage or DVC has failed.
        """
        from dvc.exceptions import DvcException

        self._begin()
        try:
            with console.status(name):
                ran = reproduce(repo, name, force=force)
        except DvcException as error:
            raise self._failure(f"stage {name}: {error.__cause__ or error}") from error
        if ran:
            self._finish(name)

    def run_script(self, path: str, *arguments: str) -> bool:
        """Runs a script; returns False if it is a gate that rejects the version.

        Raises:
            ProjectError: the script has failed.
        """
        from credit_risk.registry.gate_results import EXIT_REJECTED
        from credit_risk.registry.gating import PERFORMANCE

        name = Path(path).stem.rpartition(".")[2]
        self._begin()
        with console.status(name):
            # The loading gate must load the model in a fresh process; the other gate need not import MLflow again.
            code = (execute if path == PERFORMANCE else start)(path, *arguments)
        if code not in {0, EXIT_REJECTED}:
            raise self._failure(f"{path} failed")
        self._finish(name)
        return code == 0

    def _begin(self) -> None:
        self._start, self._offset = time.monotonic(), os.fstat(self._log.fileno()).st_size

    def _finish(self, name: str) -> None:
        self.finished.append(name)
        seconds = time.monotonic() - self._start
        console.print(f"  {name:<18} {seconds:5.1f} s  {escape(self._last_line())}", soft_wrap=True)

    def _failure(self, otherwise: str) -> ProjectError:
        return ProjectError(f"{self._last_line() or otherwise} (all output: {LOG})")

    def _last_line(self) -> str:
        """The last line that the current step has printed."""
        sys.stdout.flush()
        output = (root() / LOG).read_bytes()[self._offset :].decode(errors="replace")
        return (output.strip().splitlines() or [""])[-1].strip()


def reproduce(repo: "Repo", name: str, *, force: bool) -> bool:
    """Runs a stage by DVC; returns False if nothing that it depends on has changed."""
    with ThreadPoolExecutor(1) as pool:  # in the main thread, DVC would ignore Ctrl-C
        future = pool.submit(repo.reproduce, f"{PIPELINE}:{name}", single_item=True, force=force)
        try:
            return bool(future.result())
        except KeyboardInterrupt:
            end_children()
            raise


def start(path: str, *arguments: str) -> int:
    """Runs a script in a process of its own; returns its exit code."""
    command = [sys.executable, path, *arguments]
    return subprocess.run(command, cwd=root(), stdin=subprocess.DEVNULL, check=False).returncode


def execute(path: str, *arguments: str) -> int:
    """Runs a script in this process; returns its exit code."""
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(str(root() / path), run_name="__main__")
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return int(ending.code or 0)
    except Exception:  # noqa: BLE001 (as in a process of its own: into the log)
        traceback.print_exc()
        return 1
    return 0


def end_children() -> None:
    """Ends all processes that this one has started."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    _, alive = psutil.wait_procs(children, END_SECONDS)
    for child in alive:
        child.kill()


def print_summary(outcome: "Outcome", *, promote: bool, seconds: float) -> int:
    """Prints the metrics, what became of the model, and the next commands; returns the exit code.

    It is 0 when there is a champion to serve, or the model has passed and was not to be promoted.
    """
    problem = CONTRACT.problem
    metrics = read_json(data("6.reports", "metrics.json"))
    rows: dict[str, Callable[[Any], str]] = {
        "ROC AUC": lambda m: f"{m['roc_auc']:.3f}" + interval(m, "roc_auc"),
        "AUC of logistic regression": lambda m: f"{m['logistic_baseline']['roc_auc']:.3f}",
        "calibration error": lambda m: f"{m['ece']:.3f}",
        f"{problem.event} rate": lambda m: f"{m['positive_rate']:.3f}",
        "accuracy (majority class)": lambda m: f"{m['accuracy']:.3f} ({m['majority_accuracy']:.3f})",
    }
    table = Table(
        Column(f"held-out {problem.rows}", no_wrap=True), *(name.replace("_", " ") for name in CONTRACT.holdouts)
    )
    for name, show in rows.items():
        table.add_row(name, *(show(metrics[holdout]) for holdout in CONTRACT.holdouts))
    console.print(table)
    console.print(f"version {outcome.challenger.number} (challenger) {escape(outcome.result)}", soft_wrap=True)
    if outcome.champion is None:
        console.print(f"[bold red]there is no champion to serve[/]; results of the gates: {LOG}", soft_wrap=True)
        return 0 if outcome.passed and not promote else 1
    console.print(
        f"version {outcome.champion.number} is the champion; took {seconds:.0f} s\n{NEXT_COMMANDS}", soft_wrap=True
    )
    return 0


def interval(metrics: dict[str, Any], name: str) -> str:
    """The 95 % interval of a metric in brackets; empty where there are too few rows for one."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"


def serve(host: str, port: int, workers: int) -> int:
    """Becomes the API server; needs a champion in the registry, or one in the local cache."""
    from credit_risk.serving import model_cache

    synced = subprocess.run(
        [sys.executable, "6.production/model_sync.py", "--once"],
        cwd=root(),
        capture_output=True,
        text=True,
        check=False,
    )
    if synced.returncode:
        sentence = (synced.stderr.strip().splitlines() or ["the champion can't be downloaded"])[-1]
        try:
            cached = model_cache.load(settings().model_cache)
        except ProjectError:
            raise ProjectError(sentence) from None
        warning = f"[bold red]warning:[/] {escape(sentence)}; serving version {cached.version} from the cache"
        console.print(warning, soft_wrap=True)
    listen = ["--host", host, "--port", str(port), "--workers", str(workers)]
    os.chdir(root())
    os.execv(sys.executable, [sys.executable, "6.production/serve.py", *listen])


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

    columns = [Column(name, no_wrap=True) for name in ("time (UTC)", "event", "version", "champion afterwards")]
    table = Table(*columns, "reason", "by")
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
    with (root() / LOG).open("w", encoding="utf-8") as log, console.status(f"rebuilding version {number}"):
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
