"""The API's metrics in CloudWatch's form."""

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.validate import validate_parameters
from projects import REPOSITORY, Project, run_script, script

from credit_risk.serving import prometheus

SCRIPT = "6.production/cloudwatch.py"
NAMES = script(Project(REPOSITORY), SCRIPT)
TEXT = """
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{endpoint="/predict",status="200",le="0.1"} 90
http_request_duration_seconds_bucket{endpoint="/predict",status="200",le="+Inf"} 100
http_request_duration_seconds_count{endpoint="/predict",status="200"} 100
http_request_duration_seconds_bucket{endpoint="/predict",status="503",le="0.1"} 2
http_request_duration_seconds_bucket{endpoint="/predict",status="503",le="+Inf"} 2
http_request_duration_seconds_count{endpoint="/predict",status="503"} 2
# TYPE prediction_probability histogram
prediction_probability_bucket{le="0.1"} 60
prediction_probability_bucket{le="0.5"} 80
prediction_probability_bucket{le="1.0"} 80
prediction_probability_bucket{le="+Inf"} 80
# TYPE registry_checks counter
registry_checks_total{result="unchanged"} 7
registry_checks_total{result="failed"} 3
# TYPE model_served gauge
model_served{version="7"} 0
model_served{version="8"} 2
"""


def by_name(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        one["MetricName"] + (" of server" if one.get("Dimensions") else ""): one.get("Value", one.get("Values"))
        for one in data
    }


def test_counters_are_differences_and_histograms_are_values_with_counts() -> None:
    counts, versions = NAMES["parse"](TEXT)
    data = NAMES["metric_data"](NAMES["difference"](counts, {}), versions, "i-1")
    assert by_name(data) == {
        "Requests": 102,
        "Failures": 2,
        "SyncFailures": 3,
        "Seconds": (0.1,),  # those above all bounds count at the largest one
        "Probability": (0.1, 0.5),
        "ModelVersion": 8,
        "ModelVersion of server": 8,
    }
    (probability,) = [one for one in data if one["MetricName"] == "Probability"]
    assert probability["Counts"] == (60, 20)
    later, _ = NAMES["parse"](TEXT.replace('le="0.5"} 80', 'le="0.5"} 81').replace("} 80", "} 81"))
    data = NAMES["metric_data"](NAMES["difference"](later, counts), versions, "i-1")
    assert by_name(data)["Requests"] == 0
    assert by_name(data)["Probability"] == (0.5,)
    assert NAMES["difference"](counts, later) == counts, "the container was restarted"


def test_metrics_of_the_api_are_accepted_by_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prometheus.PROBABILITIES.values().extend([0.04, 0.3])
    prometheus.REQUEST_SECONDS.values("/predict", "200").append(0.002)
    text = prometheus.render().decode()
    page = tmp_path / "metrics"
    page.write_text(text)
    monkeypatch.setenv("PORT", "1")
    arguments = ["--namespace", "api", "--server", "i-1", "--state", str(tmp_path / "state.json")]
    assert run_script(Project(REPOSITORY), SCRIPT, *arguments) == 1
    assert "http://127.0.0.1:1/metrics does not answer" in capfd.readouterr().err
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: page.open("rb"))
    assert run_script(Project(REPOSITORY), SCRIPT, *arguments) == 0
    sent = json.loads(capfd.readouterr().out)
    model = boto3.client("cloudwatch", region_name="us-east-1").meta.service_model
    validate_parameters(sent, model.operation_model("PutMetricData").input_shape)
    values = by_name(sent["MetricData"])
    assert values["Requests"] >= 1
    assert {0.05, 0.3} <= set(values["Probability"])
