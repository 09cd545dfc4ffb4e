"""Makes what blue/green releases need and CloudFormation can't hold: a first group of servers, and CodeDeploy's group.

CodeDeploy copies the servers' group and deletes the old one at each release, so no stack may own it; and CloudFormation
refuses a deployment group that copies one. Run it with an administrator's credentials when the stack of
7.deploy/aws/servers.yaml has been updated with Updates=blue-green; it reads everything from the stack's outputs. Run it
again after the first release, and whenever sizes change in the stack: it settles them on the group that serves then.

uv run 7.deploy/blue_green.py [--stack credit-risk-servers]
"""

import argparse
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError

GROUP = "blue-green"  # of CodeDeploy; release.py finds it by the stack's output Updates
KEEP_MINUTES = 60  # the old servers after a switch: so long, a rollback takes seconds


def main() -> None:
    """Parses the command line and makes what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="credit-risk-servers", help="made from aws/servers.yaml: %(default)s")
    stack = parser.parse_args().stack
    try:
        (found,) = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        if outputs["Updates"] != GROUP:
            raise ProjectError(f"update {stack} with Updates={GROUP} first; now it is {outputs['Updates']}")
        deployments = boto3.client("codedeploy")
        application = outputs["Application"]
        autoscaling = boto3.client("autoscaling")
        if GROUP in deployments.list_deployment_groups(applicationName=application)["deploymentGroups"]:
            names = {"applicationName": application, "deploymentGroupName": GROUP}
            print(settle(autoscaling, deployments.get_deployment_group(**names)["deploymentGroupInfo"], outputs))
            return
        name = f"{stack}-first"
        make_servers(autoscaling, name, outputs)
        deployments.create_deployment_group(**deployment_group(name, outputs))
        print(f"made the servers {name} and the deployment group {GROUP}; release.py can release now")
    except (BotoCoreError, ClientError) as error:
        raise ProjectError(f"AWS: {' '.join(str(error).split())}") from error


def make_servers(autoscaling: Any, name: str, outputs: dict[str, str]) -> None:
    """The first Auto Scaling Group with its scaling; CodeDeploy names its copies itself."""
    if not autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]:
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=int(outputs["MinServers"]),
            DesiredCapacity=int(outputs["DesiredServers"]),
            MaxSize=int(outputs["MaxServers"]),
            LaunchTemplate={"LaunchTemplateId": outputs["TemplateId"], "Version": "$Latest"},
            VPCZoneIdentifier=outputs["Subnets"],
            TargetGroupARNs=[outputs["TargetArn"]],
            HealthCheckType="EC2",  # nothing is released yet: by the balancer's check, they would be replaced for ever
            HealthCheckGracePeriod=300,
            DefaultInstanceWarmup=60,
            Tags=[{"Key": "Name", "Value": name, "PropagateAtLaunch": True}],
        )
    scale(autoscaling, name, outputs)


def settle(autoscaling: Any, group: dict[str, Any], outputs: dict[str, str]) -> str:
    """Sets sizes and scaling of the group that serves now; once something is released, by the balancer's check.

    Returns:
        What has been done.
    """
    name = group["autoScalingGroups"][0]["name"]
    check = "ELB" if group.get("lastSuccessfulDeployment") else "EC2"
    autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=int(outputs["MinServers"]),
        MaxSize=int(outputs["MaxServers"]),
        HealthCheckType=check,
    )
    scale(autoscaling, name, outputs)
    return f"the servers {name} have the stack's sizes and scaling, and health check {check}"


def scale(autoscaling: Any, name: str, outputs: dict[str, str]) -> None:
    """Aims at so many requests a minute and server."""
    autoscaling.put_scaling_policy(
        AutoScalingGroupName=name,
        PolicyName="requests-per-server",
        PolicyType="TargetTrackingScaling",
        TargetTrackingConfiguration={
            "TargetValue": float(outputs["RequestsPerServer"]),
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "ALBRequestCountPerTarget",
                "ResourceLabel": outputs["RequestCountLabel"],
            },
        },
    )


def deployment_group(servers: str, outputs: dict[str, str]) -> dict[str, Any]:
    """The deployment group: copy the servers, release, switch, keep the old for a while."""
    return {
        "applicationName": outputs["Application"],
        "deploymentGroupName": GROUP,
        "serviceRoleArn": outputs["CodeDeployRoleArn"],
        "autoScalingGroups": [servers],
        "deploymentConfigName": "CodeDeployDefault.AllAtOnce",  # onto the new servers, which nobody asks yet
        "deploymentStyle": {"deploymentType": "BLUE_GREEN", "deploymentOption": "WITH_TRAFFIC_CONTROL"},
        "loadBalancerInfo": {"targetGroupInfoList": [{"name": outputs["TargetName"]}]},
        "blueGreenDeploymentConfiguration": {
            "greenFleetProvisioningOption": {"action": "COPY_AUTO_SCALING_GROUP"},
            "deploymentReadyOption": {"actionOnTimeout": "CONTINUE_DEPLOYMENT"},
            "terminateBlueInstancesOnDeploymentSuccess": {
                "action": "TERMINATE",
                "terminationWaitTimeInMinutes": KEEP_MINUTES,
            },
        },
        "autoRollbackConfiguration": {
            "enabled": True,
            "events": ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"],
        },
        "alarmConfiguration": {
            "enabled": True,
            "alarms": [{"name": name} for name in outputs["Alarms"].split(",")],
        },
    }


if __name__ == "__main__":
    run("blue/green", main)
