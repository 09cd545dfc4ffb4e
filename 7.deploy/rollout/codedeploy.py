"""CodeDeploy brings a release onto the servers, in place or blue/green."""

from typing import Any

from rollout.stack import Info, Stack, recall

from credit_risk.core.errors import ProjectError


class CodeDeploy:
    """In place or blue/green: the deployment group knows which, and is named after it."""

    def __init__(self, stack: Stack) -> None:
        """Nothing has begun yet."""
        self._stack, self._id = stack, ""
        self._group = {
            "applicationName": stack.outputs["Application"],
            "deploymentGroupName": stack.outputs["Updates"],
        }

    def start(self, key: str) -> None:
        """Creates the deployment. A blue/green one before, which only keeps its old servers, is told to let them go."""
        for waiting in self._unfinished():
            if _switched(self._look(waiting)):
                self._aws("continue_deployment", deploymentId=waiting, deploymentWaitType="TERMINATION_WAIT")
                self._until_ended(waiting)
        location = {"bucket": self._stack.outputs["ReleasesBucket"], "key": key, "bundleType": "zip"}
        revision = {"revisionType": "S3", "s3Location": location}
        self._id = self._aws("create_deployment", **self._group, revision=revision)["deploymentId"]

    def wait(self) -> None:
        """Returns when the deployment has succeeded, or has switched and only keeps the old servers for a while.

        Raises:
            ProjectError: it has failed or was stopped, by an alarm or by somebody.
        """
        info = self._stack.until(self._has_traffic_or_ended, f"the deployment {self._id}")
        if info["status"] in {"Failed", "Stopped"}:
            why = info.get("errorInformation", {})
            raise ProjectError(
                f"the deployment {self._id} is {info['status'].lower()}: {why.get('code', '')} {why.get('message', '')}"
            )

    def finish(self) -> None:
        """Blue/green's old servers end by themselves; until then a rollback is a matter of seconds."""

    def undo(self) -> None:
        """Stops the deployment, which rolls it back; one that has ended well is followed by the release before."""
        status = self._look(self._id)["status"]
        if status == "Succeeded":
            before = recall(self._stack, "current")
            if not before:
                raise ProjectError("it stays: there is no release before it to go back to")
            again = CodeDeploy(self._stack)
            again.start(before)
            again.wait()
            return
        if status not in {"Failed", "Stopped"}:
            self._aws("stop_deployment", deploymentId=self._id, autoRollbackEnabled=True)
            self._until_ended(self._id)
        if id_ := self._look(self._id).get("rollbackInfo", {}).get("rollbackDeploymentId"):
            self._id = id_
            self.wait()

    def undo_unfinished(self) -> str | None:
        """Stops a deployment under way; returns the key of its release."""
        unfinished = self._unfinished()
        if not unfinished:
            return None
        self._id = unfinished[0]
        location = self._look(self._id)["revision"]["s3Location"]
        self.undo()
        return str(location["key"])

    def last(self) -> str:
        """The latest deployment in a few words."""
        found = self._aws("list_deployments", **self._group)["deployments"][:1]
        return " ".join([*found, *(self._look(id_)["status"] for id_ in found)]) or "none"

    def _unfinished(self) -> list[str]:
        states = ["Created", "Queued", "InProgress", "Ready"]
        return list(self._aws("list_deployments", **self._group, includeOnlyStatuses=states)["deployments"])

    def _until_ended(self, deployment_id: str) -> None:
        self._stack.until(lambda: _ended(self._look(deployment_id)), f"the end of the deployment {deployment_id}")

    def _has_traffic_or_ended(self) -> Info | None:
        info = self._look(self._id)
        return info if _switched(info) or _ended(info) else None

    def _look(self, deployment_id: str) -> Info:
        info: Info = self._aws("get_deployment", deploymentId=deployment_id)["deploymentInfo"]
        return info

    def _aws(self, operation: str, **arguments: Any) -> Info:
        answer: Info = getattr(self._stack.aws("codedeploy"), operation)(**arguments)
        return answer


def _ended(info: Info) -> bool:
    return info["status"] in {"Succeeded", "Failed", "Stopped"}


def _switched(info: Info) -> bool:
    """Whether blue/green has moved the traffic and waits before it ends the old servers."""
    return bool(info.get("instanceTerminationWaitTimeStarted")) and not _ended(info)
