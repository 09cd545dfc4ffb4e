"""The whole journey in one command: pipeline, gates, promotion; then serve.

uv run main.py             runs what has changed, gates the model and promotes it if it passes
uv run main.py --refresh   the same, and looks first whether remote sources have changed
uv run main.py --no-promote    gates the model and leaves the champion as it is, for an approval to come
uv run main.py report      says where the report on the latest model is, and how it stands against the champion
uv run main.py serve       serves the champion over HTTP
uv run main.py history     lists promotions, refusals and rollbacks
uv run main.py rollback    makes the previous champion the champion again
uv run main.py doctor      checks registry, artifact store and data remote, and says how to mend them
uv run main.py reproduce   makes a version anew from its lineage, and says whether it is the same
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from credit_risk.core import child_process, params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.core.paths import data, relative, root
from credit_risk.core.settings import Settings
from credit_risk.serving import model_cache

# MLflow takes seconds to import, so what needs it is imported where it is used.
if TYPE_CHECKING:
    from credit_risk.registry.client import Version

PIPELINE = "4.dvc_pipeline/dvc.yaml"
REGISTER = "4.dvc_pipeline/7.register_model.py"
GATES = ("5.testing/loading.py", "5.testing/performance.py")
LOG = "4.dvc_pipeline/last_run.log"  # everything that the children print
RUNNING = re.compile(r"^> python (?P<script>\S+)\.py$")  # how `dvc repro` announces a stage
CHATTER = re.compile(
    r"^(Running stage|Stage '|Updating|Generating|To track|To enable|Use `dvc|Data and pipe|[ \t│┃┏┡└])"
)
SENTENCE = re.compile(r"^(stage \d|[a-z]+ gate|ERROR): ")  # an expected error, in one sentence
NEXT = """next:
  uv run main.py serve                  serve the champion on http://127.0.0.1:8000 (a page; docs at /docs), then
  curl -s localhost:8000/predict -H 'content-type: application/json' -d @6.production/example.json
  uv run main.py history                promotions, refusals and rollbacks
  uv run mlflow ui --backend-store-uri sqlite:///3.experiments/mlflow.db     runs and versions in a browser"""
console = Console(highlight=False)


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refresh", action="store_true", help="look first whether remote sources have changed")
    parser.add_argument("--no-promote", action="store_true", help="gate the model, and leave the champion as it is")
    commands = parser.add_subparsers(dest="command", metavar="command")
    serving = commands.add_parser("serve", help="serve the champion over HTTP")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serving.add_argument("--workers", type=int, default=1, help="processes that answer (default: %(default)s)")
    commands.add_parser("report", help="where the report on the latest model is, and its verdict")
    commands.add_parser("history", help="list promotions, refusals and rollbacks")
    rolling = commands.add_parser("rollback", help="make the previous champion the champion again")
    rolling.add_argument("--why", default="by hand", help="reason, for the history")
    commands.add_parser("doctor", help="check registry, artifact store and data remote")
    renaming = commands.add_parser("rename", help="rename the project: package, imports, pyproject and contract")
    renaming.add_argument("name", metavar="NAME", help="lower-case words joined by hyphens")
    again = commands.add_parser("reproduce", help="make a version anew from its lineage, and compare")
    again.add_argument("version", metavar="VERSION", help="number of the version")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "serve":
                serve(arguments.host, arguments.port, arguments.workers)
            case "report":
                show_report()
            case "history":
                show_history()
            case "rollback":
                rollback(arguments.why)
            case "doctor":
                sys.exit(doctor())
            case "rename":
                rename(arguments.name)
            case "reproduce":
                sys.exit(reproduce(arguments.version))
            case _:
                sys.exit(journey(arguments.refresh, promoting=not arguments.no_promote))
    except ProjectError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted; the next run goes on from here")
        sys.exit(130)


def journey(refresh: bool, *, promoting: bool) -> int:
    """Pipeline, registration, gates and summary; returns the exit code."""
    start = time.monotonic()
    # Opening MLflow's store takes seconds, and the first stages don't need it.
    threading.Thread(target=open_registry_early, daemon=True).start()
    with (root() / LOG).open("w", encoding="utf-8") as log, Steps() as steps:
        if refresh and sources_changed():
            repro(["--force", "--single-item", f"{PIPELINE}:get_data"], steps, log)
        repro([PIPELINE], steps, log)
        outcome = register_and_gate(steps, log, promoting=promoting)
    return summary(outcome, bool(steps.done), time.monotonic() - start)


def open_registry_early() -> None:
    """Opens the registry ahead of its use; what is wrong with it is told when it is used."""
    from credit_risk.registry.client import Registry

    try:
        Registry().experiment_id()
    except ProjectError:
        return


def sources_changed() -> bool:
    """Whether a source that DVC does not watch differs from what stage 1 has read; says which."""
    from credit_risk.data.sources import changed, expand

    manifest = data("1.raw", "manifest.json")
    if not manifest.exists():
        return False  # stage 1 runs anyway
    known = {entry["source"]: entry for entry in read_json(manifest)}
    sources = {source.name: source for source in expand(params.read(params.path())["data"]["sources"])}
    names = [name for name, source in sources.items() if name not in known or changed(source, known[name])]
    names += [name for name in known if name not in sources]
    for name in names:
        console.print(f"source {name} has changed")
    return bool(names)


class Steps:
    """What is running and for how long, as a live line; each finished step stays as a line of its own."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.sentence = ""  # the last that a step said, or its error
        self._name = ""
        self._failed = False
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("starting")

    def __enter__(self) -> Self:
        """Shows the live line."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes it away."""
        self._progress.stop()

    def begin(self, name: str) -> None:
        """Ends the running step, if any, and begins another."""
        self.end()
        self._name, self._started = name, time.monotonic()
        self._progress.reset(self._task, description=name)

    def heard(self, line: str) -> None:
        """Takes note of a line that the step has printed."""
        if self._failed or not line.strip() or CHATTER.match(line):
            return
        if line.startswith("ERROR: failed to reproduce"):  # the stage itself has said what is wrong
            self._failed = True
            self.sentence = self.sentence or line
            return
        self.sentence = line.removeprefix("ERROR: ")
        self._failed = SENTENCE.match(line) is not None

    def end(self, result: str = "") -> None:
        """Ends the running step."""
        if self._name:
            seconds = time.monotonic() - self._started
            console.print(f"  {self._name:<18} {seconds:5.1f} s  {escape(result or self.sentence)}", soft_wrap=True)
            self.done.append(self._name)
        self._name = self.sentence = ""
        self._progress.reset(self._task, description="waiting")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: what became of the challenger, and the champion that stands."""

    challenger: "Version"
    champion: "Version | None"
    verdict: str


def repro(arguments: list[str], steps: Steps, log: IO[str]) -> None:
    """Runs `dvc repro`, showing each stage that it runs.

    Raises:
        ProjectError: a stage has failed, with its own sentence, or DVC has, with its.
    """
    try:
        for line in child_process.lines([sys.executable, "-m", "dvc", "repro", *arguments], log):
            if match := RUNNING.match(line):
                steps.begin(match["script"])
            else:
                steps.heard(line)
    except subprocess.CalledProcessError as error:
        raise ProjectError(f"{steps.sentence or 'dvc repro failed'} (all output: {LOG})") from error
    steps.end()


def run_script(path: str, steps: Steps, log: IO[str], *arguments: str) -> bool:
    """Runs a script of a room; returns False if it is a gate that has refused.

    Raises:
        ProjectError: it has failed, with its own sentence.
    """
    steps.begin(path.rpartition("/")[2].removesuffix(".py"))
    try:
        for line in child_process.lines([sys.executable, path, *arguments], log):
            steps.heard(line)
    except subprocess.CalledProcessError as error:
        from credit_risk.registry.gate_results import EXIT_REJECTED

        if error.returncode != EXIT_REJECTED:
            raise ProjectError(f"{steps.sentence or path + ' failed'} (all output: {LOG})") from error
        steps.end("refused")
        return False
    steps.end()
    return True


def register_and_gate(steps: Steps, log: IO[str], *, promoting: bool) -> Outcome:
    """Sees to it that the current registry has this model as its challenger, and that it has been gated."""
    from credit_risk.registry.client import CHALLENGER, CHAMPION, LINEAGE_KEY, Registry
    from credit_risk.registry.gate_results import last_rejection

    registry = Registry()
    key = read_json(data("7.registered", "model.json"))[LINEAGE_KEY]
    challenger, champion = registry.version_of(CHALLENGER), registry.version_of(CHAMPION)
    if challenger is None or challenger.tags.get(LINEAGE_KEY) != key:
        # DVC does not see the environment: another registry, or an older model of which DVC has kept the files.
        run_script(REGISTER, steps, log)
        challenger = registry.version_of(CHALLENGER)
    if challenger is None:
        raise ProjectError(f"{registry.address} lost the challenger that was just registered; run again")
    if champion and champion.number == challenger.number:
        return Outcome(challenger, champion, "is the champion already")
    if refusal := last_rejection(challenger, champion.number if champion else None):
        return Outcome(challenger, champion, f"was refused already: {refusal}")
    loading, performance = GATES
    options = [] if promoting else ["--no-promote"]
    if run_script(loading, steps, log) and run_script(performance, steps, log, *options):
        if not promoting:
            return Outcome(challenger, champion, "passed all gates and may be promoted")
        return Outcome(challenger, registry.version_of(CHAMPION), "passed all gates and was promoted")
    refused = registry.version(challenger.number)
    refusal = last_rejection(refused, champion.number if champion else None)
    return Outcome(challenger, registry.version_of(CHAMPION), f"refused: {refusal}")


def summary(outcome: Outcome, ran: bool, seconds: float) -> int:
    """Prints the closing table and the next commands; returns the exit code: 0 when a champion stands."""
    if not ran:
        console.print("nothing has changed since the last run")
    test, late = (read_json(data("6.reports", "metrics.json"))[side] for side in ("test", "out_of_time"))
    rows: dict[str, Callable[[Any], str]] = {
        "ROC AUC": lambda m: f"{m['roc_auc']:.3f} ({m['roc_auc_low']:.3f} to {m['roc_auc_high']:.3f})",
        "… of logistic regression": lambda m: f"{m['logistic_baseline']['roc_auc']:.3f}",
        "calibration error": lambda m: f"{m['ece']:.3f}",
        "default rate": lambda m: f"{m['positive_rate']:.3f}",
        "accuracy (always “paid”)": lambda m: f"{m['accuracy']:.3f} ({m['majority_accuracy']:.3f})",
    }
    champion = outcome.champion
    table = Table("loans held out", "in time (test)", "out of time")
    for name, shown in rows.items():
        table.add_row(name, shown(test), shown(late))
    console.print(table)
    console.print(f"version {outcome.challenger.number} (challenger) {escape(outcome.verdict)}", soft_wrap=True)
    if champion is None:
        console.print(f"[bold red]no champion stands:[/] nothing can be served; the gates' tables are in {LOG}")
        return 1
    console.print(f"version {champion.number} is the champion; took {seconds:.0f} s\n{NEXT}", soft_wrap=True)
    return 0


def serve(host: str, port: int, workers: int) -> None:
    """Becomes the API's server, which follows the champion from now on; needs one, or one that it served before."""
    fetched = subprocess.run(
        [sys.executable, "6.production/model_sync.py", "--once"],
        cwd=root(),
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        sentence = (fetched.stderr.strip().splitlines() or ["the champion can't be fetched"])[-1]
        try:
            cached = model_cache.load(Settings().model_cache)
        except ProjectError:
            raise ProjectError(sentence) from None
        console.print(
            f"[bold red]warning:[/] {escape(sentence)}; serving version {cached.version} from the cache", soft_wrap=True
        )
    listen = ["--host", host, "--port", str(port), "--workers", str(workers)]
    os.chdir(root())
    os.execv(sys.executable, [sys.executable, "6.production/serve.py", *listen])


def show_report() -> None:
    """Prints where report and comparison are, and what the performance gate has found on the challenger."""
    from credit_risk.registry.client import CHALLENGER, Registry
    from credit_risk.registry.gate_results import read_gate_result

    report = data("6.reports", "report.html")
    if not report.exists():
        raise ProjectError(f"{relative(report)} is missing; run the pipeline first: `uv run main.py`")
    console.print(f"evidence:   {report.as_uri()}", soft_wrap=True)
    registry = Registry()
    challenger = registry.version_of(CHALLENGER)
    verdict = read_gate_result(challenger, "performance") if challenger else None
    if challenger is None or verdict is None:
        console.print("the performance gate has not seen this model yet; run `uv run main.py`")
        return
    if page := registry.download_file(challenger, "performance.html", root() / "5.testing" / "reports"):
        console.print(f"comparison: {page.as_uri()}", soft_wrap=True)
    against = f"version {verdict['against']}" if verdict["against"] else "no champion"
    title = (
        f"version {challenger.number} (challenger) against {against}: {'passed' if verdict['passed'] else 'refused'}"
    )
    table = Table("check", "measured", "required", "passed", title=title, title_justify="left")
    for one in verdict["checks"]:
        table.add_row(
            one["name"], escape(one["measured"]), escape(one["required"]), "yes" if one["passed"] else "[bold red]no[/]"
        )
    console.print(table)


def show_history() -> None:
    """Prints promotions, refusals and rollbacks, oldest first."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.promotion import history

    other = "instead of (rolled back, lost: to)"
    table = Table(Column("time (UTC)", no_wrap=True), Column("what", no_wrap=True), "version", other, "why", "who")
    for event in history(Registry()):
        time, instead = event.time[:19].replace("T", " "), event.other or "none"
        table.add_row(time, event.kind, event.version, instead, escape(event.why), escape(event.actor))
    console.print(table if table.row_count else "nothing has been promoted or refused yet")


def rollback(why: str) -> None:
    """Makes the previous champion the champion again."""
    from credit_risk.registry import promotion
    from credit_risk.registry.client import Registry

    old, new = promotion.rollback(Registry(), why)
    console.print(f"champion is version {new} again, instead of {old}; running servers follow within seconds")


def doctor() -> int:
    """Prints what works and what does not, with the remedy; returns the exit code: 0 when all is well."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.preflight import data_remote, preflight_checks

    fine = True
    for check in [*preflight_checks(Registry()), *data_remote()]:
        fine = fine and not check.problem
        word = "[bold red]failed[/]" if check.problem else "ok    "
        console.print(f"{word}  {check.name:<16} {escape(check.problem or check.found)}", soft_wrap=True)
    return 0 if fine else 1


def rename(name: str) -> None:
    """Renames the project."""
    from credit_risk.contract import CONTRACT
    from credit_risk.core.rename import rename as rename_project

    changed = rename_project(CONTRACT.problem, name)
    console.print(f"renamed in {changed} files; check with `git diff`, run `uv run main.py`, then commit")


def reproduce(number: str) -> int:
    """Makes a version anew and prints what differs; returns the exit code: 0 when nothing does."""
    from credit_risk.registry.client import Registry
    from credit_risk.registry.rebuild import rebuild

    registry = Registry()
    with (root() / LOG).open("w", encoding="utf-8") as log, console.status(f"making version {number} anew"):
        differences = rebuild(registry, registry.version(number), log)
    for difference in differences:
        console.print(f"differs: {escape(difference)}", soft_wrap=True)
    verdict = "differs from" if differences else "is equal to"
    console.print(f"made anew, version {number} {verdict} the registered one in metrics, scores and ONNX digest")
    return 1 if differences else 0


if __name__ == "__main__":
    main()
