"""Deployments of CodeDeploy to one of the two groups of servers; the deployment groups are named after them."""

from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.rollout.stack import Color, Stack

ONE_AT_A_TIME = "CodeDeployDefault.OneAtATime"
ALL_AT_ONCE = "CodeDeployDefault.AllAtOnce"  # for servers without traffic
ENDED = {"Succeeded", "Failed", "Stopped"}
RUNNING = ["Created", "Queued", "InProgress", "Baking", "Ready"]
LOG_LINES = 20  # that are shown of a failed hook


def start(stack: Stack, color: Color, key: str, config: str, *, despite_alarm: bool = False) -> str:
    """Starts a deployment; returns its id.

    Deployments of Auto Scaling, which install the last release on new servers, are waited for first: CodeDeploy runs
    one deployment at a time. `despite_alarm`: CodeDeploy would stop a deployment while an alarm rings, which is when a
    rollback is needed.
    """
    for id_ in running(stack, color):
        wait_for_end(stack, id_)
    options: dict[str, Any] = {"overrideAlarmConfiguration": {"enabled": False, "alarms": []}} if despite_alarm else {}
    location = {"bucket": stack.outputs["ReleasesBucket"], "key": key, "bundleType": "zip"}
    started = stack.client("codedeploy").create_deployment(
        **_group(stack, color),
        revision={"revisionType": "S3", "s3Location": location},
        deploymentConfigName=config,
        **options,
    )
    return str(started["deploymentId"])


def wait(stack: Stack, deployment: str) -> None:
    """Waits until all servers have the release.

    CodeDeploy calls a deployment successful when enough servers have it; with one at a time, the last one may fail.

    Raises:
        ProjectError: the deployment has failed on a server, or was stopped by an alarm or by somebody; with the end of
            the log of the hook that failed.
    """
    info = wait_for_end(stack, deployment)
    failed = info.get("deploymentOverview", {}).get("Failed", 0)
    if info["status"] == "Succeeded" and not failed:
        return
    reason = info.get("errorInformation", {})
    what = f"failed on {failed} servers" if info["status"] == "Succeeded" else f"has {info['status'].lower()}"
    message = " ".join(filter(None, (reason.get("code"), reason.get("message"), *_logs_of_failures(stack, deployment))))
    raise ProjectError(f"the deployment {deployment} {what}: {message or 'no reason is given'}")


def stop(stack: Stack, color: Color, keep: str | None) -> list[str]:
    """Stops deployments in progress that a person or a workflow has started; returns their ids.

    Args:
        stack: the stack of servers.
        color: the group.
        keep: key of the release whose deployments go on.
    """
    stopped = []
    for id_ in running(stack, color):
        info = describe(stack, id_)
        if info.get("creator", "user") == "user" and key_of(info) != keep:
            stack.client("codedeploy").stop_deployment(deploymentId=id_, autoRollbackEnabled=False)
            stopped.append(id_)
    return stopped


def restored(stack: Stack, deployment: str, key: str) -> bool:
    """Whether CodeDeploy has by itself rolled back to a release after this deployment."""
    rollback = describe(stack, deployment).get("rollbackInfo", {}).get("rollbackDeploymentId")
    if not rollback:
        return False
    info = wait_for_end(stack, rollback)
    return bool(
        info["status"] == "Succeeded"
        and key_of(info) == key
        and not info.get("deploymentOverview", {}).get("Failed", 0)
    )


def running(stack: Stack, color: Color) -> list[str]:
    """The deployments in progress."""
    found = stack.client("codedeploy").list_deployments(**_group(stack, color), includeOnlyStatuses=RUNNING)
    return list(found["deployments"])


def wait_for_end(stack: Stack, deployment: str) -> dict[str, Any]:
    """Waits until a deployment has ended, well or not; returns its description."""

    def ended() -> dict[str, Any] | None:
        info = describe(stack, deployment)
        return info if info["status"] in ENDED else None

    return dict(stack.wait_for(ended, f"the deployment {deployment}"))


def describe(stack: Stack, deployment: str) -> dict[str, Any]:
    """CodeDeploy's description of a deployment."""
    return dict(stack.client("codedeploy").get_deployment(deploymentId=deployment)["deploymentInfo"])


def key_of(info: dict[str, Any]) -> str:
    """The key of a deployment's release in the bucket."""
    return str(info.get("revision", {}).get("s3Location", {}).get("key", ""))


def _logs_of_failures(stack: Stack, deployment: str) -> list[str]:
    """For each failed hook: its server, its name and the end of its log, which names the reason."""
    client = stack.client("codedeploy")
    ids = client.list_deployment_targets(deploymentId=deployment).get("targetIds", [])
    if not ids:
        return []
    found = client.batch_get_deployment_targets(deploymentId=deployment, targetIds=ids)["deploymentTargets"]
    lines = []
    for target in (one["instanceTarget"] for one in found):
        for event in target.get("lifecycleEvents", []):
            diagnostics = event.get("diagnostics", {})
            if event.get("status") == "Failed":
                log = diagnostics.get("logTail") or diagnostics.get("message", "")
                tail = "\n  ".join(log.strip().splitlines()[-LOG_LINES:])
                lines.append(f"\n{target['targetId']}, {event['lifecycleEventName']}:\n  {tail}")
    return lines


def _group(stack: Stack, color: Color) -> dict[str, str]:
    return {"applicationName": stack.outputs["Application"], "deploymentGroupName": color}
