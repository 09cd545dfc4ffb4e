"""The two groups of servers and their share of the traffic."""

from typing import Any

from credit_risk.rollout.stack import Color, Stack, other

HEALTHY_SECONDS = 600  # of a server that has the release, until the load balancer finds it healthy


def size(stack: Stack, color: Color) -> int:
    """Number of servers that a group should have."""
    return int(_group(stack, color)["DesiredCapacity"])


def set_minimum(stack: Stack, color: Color, minimum: int) -> None:
    """Sets the number of servers below which scaling does not go; starts servers up to it."""
    group = _group(stack, color)
    if group["MinSize"] != minimum or group["DesiredCapacity"] < minimum:
        desired = {"DesiredCapacity": minimum} if group["DesiredCapacity"] < minimum else {}
        stack.client("autoscaling").update_auto_scaling_group(
            AutoScalingGroupName=stack.of(color, "Servers"), MinSize=minimum, **desired
        )


def stop(stack: Stack, color: Color) -> None:
    """Stops all servers of a group; the load balancer lets them finish their requests."""
    group = _group(stack, color)
    if group["MinSize"] or group["DesiredCapacity"]:
        stack.client("autoscaling").update_auto_scaling_group(
            AutoScalingGroupName=stack.of(color, "Servers"), MinSize=0, DesiredCapacity=0
        )


def wait_in_service(stack: Stack, color: Color) -> None:
    """Waits until Auto Scaling has started all servers of a group."""

    def started() -> bool:
        group = _group(stack, color)
        states = [instance["LifecycleState"] for instance in group["Instances"]]
        return states.count("InService") >= int(group["DesiredCapacity"])

    stack.wait_for(started, f"the servers of {color} to start")


def wait_healthy(stack: Stack, color: Color) -> None:
    """Waits until the load balancer finds as many servers of a group healthy as it should have."""
    all_healthy = f"all servers of {color} to be healthy"
    stack.wait_for(lambda: healthy(stack, color) >= size(stack, color), all_healthy, HEALTHY_SECONDS)


def healthy(stack: Stack, color: Color) -> int:
    """Number of servers of a group that the load balancer finds healthy."""
    found = stack.client("elbv2").describe_target_health(TargetGroupArn=stack.of(color, "TargetArn"))
    return [one["TargetHealth"]["State"] for one in found["TargetHealthDescriptions"]].count("healthy")


def set_weight(stack: Stack, color: Color, percent: int) -> None:
    """Gives a group a percentage of the public traffic, and the other group the rest."""
    if weight(stack, color) != percent:
        weights = {color: percent, other(color): 100 - percent}
        stack.client("elbv2").modify_rule(RuleArn=stack.outputs["TrafficRule"], Actions=[_forward(stack, weights)])


def weight(stack: Stack, color: Color) -> int:
    """The percentage of the public traffic that a group gets."""
    (rule,) = stack.client("elbv2").describe_rules(RuleArns=[stack.outputs["TrafficRule"]])["Rules"]
    targets = rule["Actions"][0]["ForwardConfig"]["TargetGroups"]
    weights = {one["TargetGroupArn"]: int(one.get("Weight", 1)) for one in targets}
    return round(100 * weights.get(stack.of(color, "TargetArn"), 0) / (sum(weights.values()) or 1))


def set_tested(stack: Stack, color: Color) -> None:
    """Connects the test listener with a group."""
    stack.client("elbv2").modify_listener(
        ListenerArn=stack.outputs["TestListener"], DefaultActions=[_forward(stack, {color: 100})]
    )


def _forward(stack: Stack, weights: dict[Color, int]) -> dict[str, Any]:
    """The listener's action that shares the traffic."""
    targets = [{"TargetGroupArn": stack.of(color, "TargetArn"), "Weight": share} for color, share in weights.items()]
    return {
        "Type": "forward",
        "ForwardConfig": {"TargetGroups": targets, "TargetGroupStickinessConfig": {"Enabled": False}},
    }


def _group(stack: Stack, color: Color) -> dict[str, Any]:
    """Auto Scaling's description of a group."""
    names = [stack.of(color, "Servers")]
    found = stack.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=names)
    return dict(found["AutoScalingGroups"][0])
