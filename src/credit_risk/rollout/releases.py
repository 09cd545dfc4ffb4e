"""Releases an image to the servers, and goes back.

rolling     CodeDeploy replaces the release in place on the group that serves, one server at a time.
blue/green  The idle group is scaled up, gets the release, is tested through the test listener, and takes over the
            traffic in steps. Until the release has finished, the way back is the listener's weights: seconds.

The recorded state says which group and which release serve. `settle` makes the weights and sizes of the groups equal to
it, so that the way back of an interrupted blue/green release is to record the old state.
"""

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.project.shift import shift_traffic
from credit_risk.rollout import checks, codedeploy, images, servers
from credit_risk.rollout.stack import HISTORY, Stack, State, Strategy, Unfinished, other


@dataclass(frozen=True)
class Options:
    """How to release: `bake_seconds`, for which alarms are watched at each step; `attestation`, a file of the image."""

    strategy: Strategy = "rolling"
    bake_seconds: float = 300
    despite_alarm: bool = False
    attestation: Path | None = None


def deploy(stack: Stack, image: str, options: Options) -> None:
    """Releases an image; on failure the release before it serves again.

    Raises:
        ProjectError: nothing was changed, because the image is not there, an alarm rings or another release has not
            finished; or the release has failed and was undone.
    """
    checks.require_key()
    images.check(stack, image)
    attestation = images.read_attestation(stack, image, options.attestation)
    state = stack.state()
    if state.unfinished and state.unfinished.strategy != "rollback":  # a fix may replace a rollback that has failed
        raise ProjectError(
            f"the release {state.unfinished.key} has not finished: wait for it, or undo it with `release.py undo`"
        )
    active = checks.ringing(stack, "blue", "green")
    if active and not options.despite_alarm:
        raise ProjectError(
            f"alarm: {', '.join(active)}; `release.py rollback` goes back, and `deploy --despite-alarm` releases a fix"
        )
    settle(stack, state)
    images.protect(stack, image)
    key = images.upload(stack, image, attestation)
    print(f"{options.strategy} release of {image}", flush=True)
    # A release that rings is no place to go back to.
    kept = [one for one in (state.history[:-1] if active else state.history) if one != key]
    color = state.serving if options.strategy == "rolling" else other(state.serving)
    finished = State(color, (*kept, key)[-HISTORY:])
    _release(stack, state, finished, options)


def undo(stack: Stack, image: str = "") -> None:
    """Ends an unfinished release: the release before it serves again. Without one, nothing changes.

    Can be repeated, and run while another process undoes the same release.

    Args:
        stack: the stack of servers.
        image: undo only a release of this image.

    Raises:
        ProjectError: there is no release before it, or it can't be restored.
    """
    state = stack.state()
    if not state.unfinished:
        settle(stack, state)
        print("no release to undo", flush=True)
        return
    if image and images.image_of(stack, state.unfinished.key) != image:
        print("no release of this image to undo; another one has not finished", flush=True)
        return
    if state.unfinished.strategy == "rollback":
        raise ProjectError("a rollback has not finished, and is not undone; run `release.py rollback` again")
    with _uninterrupted():
        if state.unfinished.strategy == "blue-green":
            servers.set_weight(stack, state.serving, 100)
            codedeploy.stop(stack, state.unfinished.color, keep=None)
        else:
            _restore(stack, state, state.unfinished)
        state = replace(state, unfinished=None)
        stack.record(state)
        settle(stack, state)
    print("undone: the release before serves", flush=True)


def roll_back(stack: Stack) -> None:
    """Goes back to the release before the current one, also while an alarm rings; a rollback is never undone.

    An unfinished release is undone instead.

    Raises:
        ProjectError: there is no such release, its image or attestation is missing, or the rollback has failed.
    """
    state = stack.state()
    if state.unfinished and state.unfinished.strategy != "rollback":
        undo(stack)
        return
    if not state.previous:
        raise ProjectError("there is no release before this one")
    images.check(stack, images.image_of(stack, state.previous))
    if stack.outputs.get("SignerRepository") and not images.is_attested(stack, state.previous):
        raise ProjectError(
            "the release before has no attestation, and servers would not start it: deploy an image with its "
            "attestation, `release.py deploy --despite-alarm --image … --attestation FILE`"
        )
    print(f"rolling back to {images.image_of(stack, state.previous)}", flush=True)
    unfinished = Unfinished(uuid.uuid4().hex, state.previous, "rollback", state.serving)
    stack.record(replace(state, unfinished=unfinished))
    settle(stack, state)
    codedeploy.stop(stack, state.serving, keep=state.previous)
    _install(stack, unfinished, despite_alarm=True)
    if _is_recorded(stack, unfinished):
        stack.record(State(state.serving, state.history[:-1]))  # what was rolled back is no place to go back to
    print("rolled back", flush=True)


def settle(stack: Stack, state: State) -> None:
    """Makes traffic and groups equal to the recorded state: one group serves, the other one is idle."""
    servers.set_weight(stack, state.serving, 100)
    parameter, ssm = stack.outputs["ServingParameter"], stack.client("ssm")
    if ssm.get_parameter(Name=parameter)["Parameter"]["Value"] != state.serving:
        ssm.put_parameter(Name=parameter, Value=state.serving, Overwrite=True)  # the template's updates read it
    servers.set_minimum(stack, state.serving, int(stack.outputs["MinServers"]))
    servers.stop(stack, other(state.serving))


def status(stack: Stack) -> dict[str, str]:
    """Releases, servers, traffic and alarms."""
    state = stack.state()
    unfinished = state.unfinished
    alarms = checks.alarm_states(stack, "blue", "green")
    return {
        "current": images.image_of(stack, state.current),
        "previous": images.image_of(stack, state.previous),
        "unfinished": f"{unfinished.strategy} of {images.image_of(stack, unfinished.key)}" if unfinished else "none",
        **{
            color: f"{servers.weight(stack, color)} % of the traffic, "
            f"{servers.healthy(stack, color)} of {servers.size(stack, color)} servers healthy"
            for color in (state.serving, other(state.serving))
        },
        "alarms": ", ".join(f"{name} {value}" for name, value in alarms.items()),
    }


def _release(stack: Stack, state: State, finished: State, options: Options) -> None:
    """Releases, from one state to another; goes back to the first one on failure or interruption."""
    assert finished.current  # noqa: S101 (for the type checker)
    reference = _reference(stack, state, options)
    unfinished = Unfinished(uuid.uuid4().hex, finished.current, options.strategy, finished.serving)
    stack.record(replace(state, unfinished=unfinished))
    try:
        if options.strategy == "rolling":
            _roll(stack, unfinished, reference, options)
        else:
            _take_over(stack, state, unfinished, reference, options)
    except (Exception, KeyboardInterrupt) as error:
        if _is_recorded(stack, unfinished):
            print(f"undoing the release: {error or 'interrupted'}", flush=True)
            undo(stack)
        raise
    stack.record(finished)
    settle(stack, finished)
    print("released", flush=True)


def _reference(stack: Stack, state: State, options: Options) -> Callable[[], checks.Answer] | None:
    """Gives the answer of the release before; in a rolling release, no server has it afterwards."""
    url = stack.outputs["Url"]
    if not state.current:
        return None
    try:
        before = checks.ask(url)
    except ProjectError:
        if options.despite_alarm:  # what serves is broken, and this release is the fix
            return None
        raise
    return (lambda: before) if options.strategy == "rolling" else lambda: checks.ask(url)


def _roll(
    stack: Stack, unfinished: Unfinished, reference: Callable[[], checks.Answer] | None, options: Options
) -> None:
    """Installs the release on the servers that serve, one at a time."""
    alarms = checks.AlarmWatch(stack, unfinished.color)
    _install(stack, unfinished, despite_alarm=options.despite_alarm)
    checks.smoke_test(stack, stack.outputs["Url"], reference)
    _watch(stack, unfinished, alarms, options.bake_seconds)


def _take_over(
    stack: Stack,
    state: State,
    unfinished: Unfinished,
    reference: Callable[[], checks.Answer] | None,
    options: Options,
) -> None:
    """Starts and tests the idle group, and gives it the traffic in steps."""
    new, old = unfinished.color, state.serving
    size = max(servers.size(stack, old), 1)
    servers.set_minimum(stack, old, size)  # scaling must not remove servers that the way back needs,
    servers.set_minimum(stack, new, size)  # nor new ones, which have little traffic at first
    print(f"starting {size} servers of {new}", flush=True)
    servers.wait_in_service(stack, new)
    alarms = checks.AlarmWatch(stack, new)
    _install(stack, unfinished, despite_alarm=options.despite_alarm)
    servers.set_tested(stack, new)
    checks.smoke_test(stack, stack.outputs["TestUrl"], reference)

    def set_weight(percent: int) -> None:
        if percent:
            if not _is_recorded(stack, unfinished):
                raise ProjectError("the release was undone by another process")
            servers.set_minimum(
                stack, new, max(size, servers.size(stack, old))
            )  # the old group may have been scaled up
        print(f"{new} gets {percent} % of the traffic", flush=True)
        servers.set_weight(stack, new, percent)

    shift_traffic(set_weight, lambda: _watch(stack, unfinished, alarms, options.bake_seconds))


def _install(stack: Stack, unfinished: Unfinished, *, despite_alarm: bool) -> None:
    """Deploys a release to a group, and waits until all its servers are healthy."""
    idle = unfinished.strategy == "blue-green"
    config = codedeploy.ALL_AT_ONCE if idle else codedeploy.ONE_AT_A_TIME
    deployment = codedeploy.start(stack, unfinished.color, unfinished.key, config, despite_alarm=despite_alarm)
    _record_deployment(stack, unfinished, deployment)
    print(f"deployment {deployment}", flush=True)
    codedeploy.wait(stack, deployment)
    servers.wait_healthy(stack, unfinished.color)


def _restore(stack: Stack, state: State, unfinished: Unfinished) -> None:
    """Installs the current release again on the servers where a rolling release has replaced it."""
    stopped = codedeploy.stop(stack, unfinished.color, keep=state.current)
    if not (stopped or unfinished.deployment):
        return  # no server was changed
    if not state.current:
        stack.record(replace(state, unfinished=None))
        raise ProjectError("there is no release before this one; it stays")
    if unfinished.deployment and codedeploy.restored(stack, unfinished.deployment, state.current):
        return
    images.check(stack, images.image_of(stack, state.current))
    deployment = codedeploy.start(stack, unfinished.color, state.current, codedeploy.ONE_AT_A_TIME, despite_alarm=True)
    print(f"deployment {deployment} of {images.image_of(stack, state.current)}", flush=True)
    codedeploy.wait(stack, deployment)
    servers.wait_healthy(stack, unfinished.color)


def _watch(stack: Stack, unfinished: Unfinished, alarms: checks.AlarmWatch, seconds: float) -> None:
    """Watches the alarms for a while.

    Raises:
        ProjectError: an alarm rings, or another process has undone the release.
    """
    deadline = time.monotonic() + seconds
    while True:
        alarms.check()
        if not _is_recorded(stack, unfinished):
            raise ProjectError("the release was undone by another process")
        if time.monotonic() >= deadline:
            return
        time.sleep(stack.poll_seconds)


def _is_recorded(stack: Stack, unfinished: Unfinished) -> bool:
    """Whether a release is still the unfinished one: another process may have undone it."""
    recorded = stack.state().unfinished
    return bool(recorded and recorded.id == unfinished.id)


def _record_deployment(stack: Stack, unfinished: Unfinished, deployment: str) -> None:
    state = stack.state()
    if state.unfinished and state.unfinished.id == unfinished.id:
        stack.record(replace(state, unfinished=replace(unfinished, deployment=deployment)))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignores SIGTERM, which a cancelled workflow sends soon after SIGINT: what has begun to be undone is undone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
