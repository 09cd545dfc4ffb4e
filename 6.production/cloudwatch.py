"""Prints the API's metrics of the last minute as input of `aws cloudwatch put-metric-data --cli-input-json`.

7.deploy/aws/hooks/send_metrics.sh runs it in the container, once a minute. (CloudWatch's agent drops histograms.)
Counters become differences to the last run, and histograms numbers of values at the upper bound of each bucket, from
which CloudWatch calculates percentiles.

Reads:  /metrics of this container; the counters of the last run
Writes: these counters (below --state)

Usage: python 6.production/cloudwatch.py --namespace NAME --server INSTANCE
"""

from credit_risk.core.entry_point import run

import argparse
import json
import math
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json

Counts = dict[str, float]  # a counter's name (with a bucket's bound, as `seconds<=0.1`): value


def main() -> None:
    """Prints the input for the AWS command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True, help="namespace of the metrics in CloudWatch")
    parser.add_argument("--server", required=True, help="name of this server, the dimension of the model's version")
    default = Path(tempfile.gettempdir()) / "sent_metrics.json"
    parser.add_argument("--state", type=Path, default=default, help="default: %(default)s")
    arguments = parser.parse_args()
    counts, versions = parse(fetch())
    sent = json.loads(arguments.state.read_text()) if arguments.state.exists() else {}
    write_json(arguments.state, counts)
    data = metric_data(difference(counts, sent), versions, arguments.server)
    print(json.dumps({"Namespace": arguments.namespace, "MetricData": data}))


def fetch() -> str:
    """The text of /metrics.

    Raises:
        ProjectError: the API does not answer.
    """
    url = f"http://127.0.0.1:{os.environ.get('INTERNAL_PORT') or os.environ['PORT']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, TimeoutError) as error:
        raise ProjectError(f"{url} does not answer: {error}") from error


def parse(text: str) -> tuple[Counts, set[str]]:
    """The counters, and the model versions that workers serve."""
    counts: Counts = {"Requests": 0, "Failures": 0, "SyncFailures": 0}
    versions = set()
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            match name:
                case "http_request_duration_seconds_count":
                    counts["Requests"] += value
                    counts["Failures"] += value if labels["status"].startswith("5") else 0
                case "http_request_duration_seconds_bucket":
                    add(counts, f"Seconds<={float(labels['le'])}", value)
                case "prediction_probability_bucket":
                    add(counts, f"Probability<={float(labels['le'])}", value)
                case "registry_checks_total" if labels["result"] == "failed":
                    counts["SyncFailures"] += value
                case "model_served" if value:
                    versions.add(labels["version"])
    return counts, versions


def add(counts: Counts, name: str, value: float) -> None:
    """Adds to a counter."""
    counts[name] = counts.get(name, 0) + value


def difference(counts: Counts, before: Counts) -> Counts:
    """What was counted since the last run; a counter that has become smaller has begun again."""
    restarted = any(before.get(name, 0) > value for name, value in counts.items())
    return {name: value - (0 if restarted else before.get(name, 0)) for name, value in counts.items()}


def metric_data(counts: Counts, versions: set[str], server: str) -> list[dict[str, Any]]:
    """The metrics in CloudWatch's form."""
    data: list[dict[str, Any]] = [
        {"MetricName": name, "Value": value, "Unit": "Count"} for name, value in counts.items() if "<=" not in name
    ]
    for name, unit in (("Seconds", "Seconds"), ("Probability", "None")):
        if buckets := list(per_bucket(counts, name)):
            values, numbers = zip(*buckets, strict=True)
            data.append({"MetricName": name, "Values": values, "Counts": numbers, "Unit": unit})
    numeric = sorted(int(version) for version in versions if version.isdecimal())
    return data + [
        {"MetricName": "ModelVersion", "Value": version, "Dimensions": dimensions}
        for version in numeric
        for dimensions in ([], [{"Name": "Server", "Value": server}])
    ]


def per_bucket(counts: Counts, name: str) -> Iterator[tuple[float, float]]:
    """Upper bound and number of values of each bucket that has some; those above all bounds count at the largest."""
    bounds = sorted(float(key.partition("<=")[2]) for key in counts if key.startswith(f"{name}<="))
    below, found = 0.0, dict[float, float]()
    for bound in bounds:
        number = counts[f"{name}<={bound}"] - below
        below += number
        place = bound if math.isfinite(bound) else bounds[-2]
        found[place] = found.get(place, 0) + number
    yield from ((bound, number) for bound, number in found.items() if number > 0)


if __name__ == "__main__":
    run("cloudwatch", main)
