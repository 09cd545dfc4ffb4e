"""Creates what blue/green releases need outside CloudFormation: the first group of servers and the deployment group.

CodeDeploy copies the Auto Scaling group and deletes the old one at each release, so no stack can own it, and
CloudFormation can't create a deployment group that copies one. Run this script with administrator credentials after the
stack of 7.deploy/aws/servers.yaml was updated with Strategy=blue-green. Run it again after the first release and
whenever sizes change in the stack: it applies them to the current group.

uv run 7.deploy/blue_green.py [--stack STACK]
"""

from credit_risk.core.entry_point import run

import argparse
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError

GROUP = "blue-green"  # deployment group; release.py finds it by the stack's output Strategy
KEEP_MINUTES = 60  # how long the old servers stay after the switch; meanwhile a rollback takes seconds


def main() -> None:
    """Creates what is missing, or applies the stack's sizes to the current group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stack_name = f"{CONTRACT.problem.name}-servers"
    parser.add_argument("--stack", default=stack_name, help="stack of aws/servers.yaml (default: %(default)s)")
    stack = parser.parse_args().stack
    try:
        (found,) = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        if outputs["Strategy"] != GROUP:
            raise ProjectError(f"update {stack} with Strategy={GROUP} first; it is {outputs['Strategy']}")
        deployments = boto3.client("codedeploy")
        application = outputs["Application"]
        autoscaling = boto3.client("autoscaling")
        if GROUP in deployments.list_deployment_groups(applicationName=application)["deploymentGroups"]:
            names = {"applicationName": application, "deploymentGroupName": GROUP}
            print(apply_sizes(autoscaling, deployments.get_deployment_group(**names)["deploymentGroupInfo"], outputs))
            return
        name = f"{stack}-first"
        create_servers(autoscaling, name, outputs)
        deployments.create_deployment_group(**deployment_group(name, outputs))
        print(f"created the servers {name} and the deployment group {GROUP}; next: release.py deploy")
    except (BotoCoreError, ClientError) as error:
        raise ProjectError(f"AWS: {' '.join(str(error).split())}") from error


def create_servers(autoscaling: Any, name: str, outputs: dict[str, str]) -> None:
    """Creates the first Auto Scaling group and its scaling policy; CodeDeploy names the copies."""
    if not autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]:
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=int(outputs["MinServers"]),
            DesiredCapacity=int(outputs["DesiredServers"]),
            MaxSize=int(outputs["MaxServers"]),
            LaunchTemplate={"LaunchTemplateId": outputs["TemplateId"], "Version": "$Latest"},
            VPCZoneIdentifier=outputs["Subnets"],
            TargetGroupARNs=[outputs["TargetArn"]],
            HealthCheckType="EC2",  # nothing is released yet: with ELB, servers would be replaced again and again
            HealthCheckGracePeriod=300,
            DefaultInstanceWarmup=60,
            Tags=[{"Key": "Name", "Value": name, "PropagateAtLaunch": True}],
        )
    put_scaling_policy(autoscaling, name, outputs)


def apply_sizes(autoscaling: Any, group: dict[str, Any], outputs: dict[str, str]) -> str:
    """Applies the stack's sizes and scaling to the current group; returns a message.

    The health check is the load balancer's (ELB) once there was a release.
    """
    name = group["autoScalingGroups"][0]["name"]
    check = "ELB" if group.get("lastSuccessfulDeployment") else "EC2"
    autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=int(outputs["MinServers"]),
        MaxSize=int(outputs["MaxServers"]),
        HealthCheckType=check,
    )
    put_scaling_policy(autoscaling, name, outputs)
    return f"the servers {name} have the sizes and scaling of the stack, and health check {check}"


def put_scaling_policy(autoscaling: Any, name: str, outputs: dict[str, str]) -> None:
    """Scales a group to a number of requests per minute and server."""
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
    """The deployment group: copies the servers, deploys, switches, and terminates the old servers later."""
    return {
        "applicationName": outputs["Application"],
        "deploymentGroupName": GROUP,
        "serviceRoleArn": outputs["CodeDeployRoleArn"],
        "autoScalingGroups": [servers],
        "deploymentConfigName": "CodeDeployDefault.AllAtOnce",  # to the new servers, which have no traffic yet
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
