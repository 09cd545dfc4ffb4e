"""Auto Scaling brings a release onto the servers, by an instance refresh."""

from typing import Any

from rollout.stack import Info, Stack

from credit_risk.core.errors import ProjectError


class Refresh:
    """Auto Scaling replaces its servers by ones of a new version of the launch template, which names the release."""

    def __init__(self, stack: Stack, bake_seconds: float) -> None:
        """Nothing has begun yet."""
        self._stack, self._bake_seconds = stack, bake_seconds
        self._group = {"AutoScalingGroupName": stack.name}

    def start(self, key: str) -> None:
        """Makes the version and starts the refresh."""
        (group,) = self._aws("describe_auto_scaling_groups", AutoScalingGroupNames=[self._stack.name])[
            "AutoScalingGroups"
        ]
        before = group["LaunchTemplate"]
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "release", "Value": key}]}]
        made = self._stack.aws("ec2").create_launch_template_version(
            LaunchTemplateId=before["LaunchTemplateId"],
            SourceVersion=before["Version"],
            LaunchTemplateData={"TagSpecifications": tags},
            VersionDescription=key,
        )["LaunchTemplateVersion"]
        template = {"LaunchTemplateId": before["LaunchTemplateId"], "Version": str(made["VersionNumber"])}
        preferences = {
            "MinHealthyPercentage": 100,  # a new server first, then an old one goes
            "MaxHealthyPercentage": 150,
            "InstanceWarmup": 60,
            "SkipMatching": True,
            "CheckpointPercentages": [20, 100],  # after the first fifth, time for the alarms to go off
            "CheckpointDelay": 180,
            "AutoRollback": True,
            "AlarmSpecification": {"Alarms": self._stack.outputs["Alarms"].split(",")},
            "BakeTime": int(self._bake_seconds) + 120,  # while it lasts it can be rolled back: time to try and watch
        }
        desired = {"LaunchTemplate": template}
        self._aws("start_instance_refresh", **self._group, DesiredConfiguration=desired, Preferences=preferences)

    def wait(self) -> None:
        """Returns when all servers are new and it bakes.

        Raises:
            ProjectError: it has failed, or an alarm has rolled it back.
        """
        self._until({"Baking", "Successful"})

    def finish(self) -> None:
        """Waits until it can't be rolled back any more."""
        self._until({"Successful"})

    def undo(self) -> None:
        """Rolls it back, unless it has rolled itself back."""
        if self._look()["Status"] in {"Pending", "InProgress", "Baking"}:
            self._aws("rollback_instance_refresh", **self._group)
        self._until({"RollbackSuccessful"})

    def last(self) -> str:
        """The latest refresh in a few words."""
        found = self._aws("describe_instance_refreshes", **self._group)["InstanceRefreshes"][:1]
        return " ".join(f"{refresh['InstanceRefreshId']} {refresh['Status']}" for refresh in found) or "none"

    def _until(self, good: set[str]) -> None:
        bad = {"Failed", "Cancelled", "RollbackFailed", "RollbackSuccessful", "RollbackInProgress"} - good
        if "RollbackSuccessful" in good:
            bad.remove("RollbackInProgress")

        def done() -> Info | None:
            refresh = self._look()
            return refresh if refresh["Status"] in good | bad else None

        refresh = self._stack.until(done, "the instance refresh")
        if refresh["Status"] in bad:
            raise ProjectError(f"the instance refresh is {refresh['Status']}: {refresh.get('StatusReason', '')}")

    def _look(self) -> Info:
        refresh: Info = self._aws("describe_instance_refreshes", **self._group)["InstanceRefreshes"][0]
        return refresh

    def _aws(self, operation: str, **arguments: Any) -> Info:
        answer: Info = getattr(self._stack.aws("autoscaling"), operation)(**arguments)
        return answer
