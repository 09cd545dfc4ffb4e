"""CodeDeploy for tests: deployments to the Auto Scaling groups of moto, with the rules that a release depends on.

moto creates deployments that never end. This one has one deployment at a time in a group, is stopped by an alarm that
rings unless the deployment overrides it, rolls back by itself what has failed, and knows which release each server has.
Requests and responses are validated with AWS's description of the service.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from credit_risk.rollout.stack import Stack

MODEL = botocore.session.get_session().get_service_model("codedeploy")
ENDED = {"Succeeded", "Failed", "Stopped"}
LOG = "[stderr]ValidateService: the API exited before it was ready"


@dataclass
class Deployment:
    """A deployment; it has ended after so many looks at it."""

    id: str
    group: str
    key: str
    creator: str
    config: str
    despite_alarm: bool
    looks: int = 3
    status: str = "InProgress"
    failed: list[str] = field(default_factory=list)  # servers
    error: dict[str, str] = field(default_factory=dict)
    rollback: str = ""


class CodeDeploy:
    """Replaces boto3's client of CodeDeploy."""

    def __init__(self, stack: Stack, fails: Callable[[str, int], bool]) -> None:
        """Takes the stack of servers, and whether a release fails on the server with this number."""
        self._stack, self._fails = stack, fails
        self.deployments: list[Deployment] = []
        self.installed: dict[str, str] = {}  # server: key of its release
        self.at_look: Callable[[Deployment], None] = lambda _: None  # called at each look at a running deployment

    def __getattr__(self, operation: str) -> Any:
        name = "".join(part.capitalize() for part in operation.split("_"))
        model = MODEL.operation_model(name)

        def call(**parameters: Any) -> Any:
            problems = ParamValidator().validate(parameters, model.input_shape)
            assert not problems.has_errors(), problems.generate_report()
            answer = getattr(self, f"_{operation}")(**parameters)
            if model.output_shape:
                problems = ParamValidator().validate(answer, model.output_shape)
                assert not problems.has_errors(), problems.generate_report()
            return answer

        return call

    def servers(self, group: str) -> list[str]:
        """Ids of the servers of a group."""
        name = self._stack.outputs[f"{group.capitalize()}Servers"]
        found = self._stack.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return [instance["InstanceId"] for instance in found["AutoScalingGroups"][0]["Instances"]]

    def keys(self, group: str) -> list[str]:
        """The release of each server of a group."""
        return [self.installed.get(server, "") for server in self.servers(group)]

    def begin(self, group: str, key: str, creator: str = "user", **how: Any) -> Deployment:
        """Starts a deployment."""
        id_ = f"d-{len(self.deployments):09}"
        deployment = Deployment(id_, group, key, creator, how.pop("config", ""), how.pop("despite_alarm", False), **how)
        self.deployments.append(deployment)
        return deployment

    def _create_deployment(self, **given: Any) -> Any:
        group = given["deploymentGroupName"]
        if any(one.group == group and one.status not in ENDED for one in self.deployments):
            error = {"Error": {"Code": "DeploymentLimitExceededException", "Message": "one at a time"}}
            raise ClientError(error, "CreateDeployment")
        override = given.get("overrideAlarmConfiguration", {})
        key, config = given["revision"]["s3Location"]["key"], given["deploymentConfigName"]
        return {
            "deploymentId": self.begin(group, key, config=config, despite_alarm=override.get("enabled") is False).id
        }

    def _list_deployments(self, **given: Any) -> Any:
        wanted = given["includeOnlyStatuses"]
        group = given["deploymentGroupName"]
        return {"deployments": [one.id for one in self.deployments if one.group == group and one.status in wanted]}

    def _stop_deployment(self, deploymentId: str, autoRollbackEnabled: bool) -> Any:  # noqa: N803 (AWS's names)
        assert not autoRollbackEnabled
        self._find(deploymentId).status = "Stopped"
        return {"status": "Succeeded"}

    def _get_deployment(self, deploymentId: str) -> Any:  # noqa: N803
        one = self._find(deploymentId)
        if one.status not in ENDED:
            self.at_look(one)
            one.looks -= 1
            self._advance(one)
        return {
            "deploymentInfo": {
                "deploymentId": one.id,
                "status": one.status,
                "creator": one.creator,
                "revision": {"revisionType": "S3", "s3Location": {"key": one.key}},
                "deploymentOverview": {"Failed": len(one.failed)},
                **({"errorInformation": one.error} if one.error else {}),
                **({"rollbackInfo": {"rollbackDeploymentId": one.rollback}} if one.rollback else {}),
            }
        }

    def _list_deployment_targets(self, deploymentId: str) -> Any:  # noqa: N803
        return {"targetIds": self.servers(self._find(deploymentId).group)}

    def _batch_get_deployment_targets(self, deploymentId: str, targetIds: list[str]) -> Any:  # noqa: N803
        failed = self._find(deploymentId).failed
        event = {"lifecycleEventName": "ValidateService", "status": "Failed", "diagnostics": {"logTail": LOG}}
        targets = [{"targetId": id_, "lifecycleEvents": [event] if id_ in failed else []} for id_ in targetIds]
        return {
            "deploymentTargets": [
                {"deploymentTargetType": "InstanceTarget", "instanceTarget": target} for target in targets
            ]
        }

    def _find(self, id_: str) -> Deployment:
        return next(one for one in self.deployments if one.id == id_)

    def _advance(self, one: Deployment) -> None:
        """Stops a deployment when an alarm rings, or installs its release at the last look."""
        names = self._stack.outputs[f"{one.group.capitalize()}Alarms"].split(",")
        found = self._stack.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
        ringing = [alarm["AlarmName"] for alarm in found if alarm["StateValue"] == "ALARM"]
        if ringing and not one.despite_alarm and one.creator == "user":
            one.status, one.error = "Stopped", {"code": "ALARM_ACTIVE", "message": ringing[0]}
            return
        if one.looks > 0 or one.status in ENDED:
            return
        servers = self.servers(one.group)
        one.status = "Succeeded"
        for number, server in enumerate(servers, 1):
            if self._fails(one.key, number):
                self.installed.pop(server, None)
                one.failed.append(server)
                if number < len(servers):  # one at a time: the deployment fails unless it was the last server
                    one.status = "Failed"
                    one.error = {"code": "HEALTH_CONSTRAINTS", "message": "too many instances failed"}
                    return
            else:
                self.installed[server] = one.key
