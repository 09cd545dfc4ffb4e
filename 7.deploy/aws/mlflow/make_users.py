"""Makes what is missing in a new registry: users, experiment and model. Runs beside the MLflow server, at each start.

`pipeline` may change the experiment and the model, `service`, as everybody, may read them. Environment:
MLFLOW_ADMIN_PASSWORD, MLFLOW_PIPELINE_PASSWORD, MLFLOW_SERVICE_PASSWORD; MLFLOW_URL, if it is not this machine's.
It stands alone, without the project's package: the server's image has nothing of the project.
"""

import os
import sys
from typing import Any

import requests

URL = os.environ.get("MLFLOW_URL", "http://localhost:5000")
EXPERIMENT, MODEL = "credit-risk", "CreditRiskModel"


def main() -> None:
    """Makes them; what exists already stays as it is."""
    for user in ("pipeline", "service"):
        ask("2.0/mlflow/users/create", username=user, password=os.environ[f"MLFLOW_{user.upper()}_PASSWORD"])
    ask("2.0/mlflow/experiments/create", name=EXPERIMENT)
    ask("2.0/mlflow/registered-models/create", name=MODEL)
    found = ask(f"2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}", "GET")
    for kind, name in {"experiment": found["experiment"]["experiment_id"], "registered_model": MODEL}.items():
        right = {"resource_type": kind, "resource_id": name, "permission": "MANAGE"}
        ask("3.0/mlflow/users/permissions/grant", username="pipeline", **right)
    print("users, experiment and model are there")


def ask(path: str, method: str = "POST", **body: str) -> Any:
    """Asks the server as its admin; ends with one sentence if it refuses."""
    admin = ("admin", os.environ["MLFLOW_ADMIN_PASSWORD"])
    answer = requests.request(method, f"{URL}/api/{path}", json=body or None, auth=admin, timeout=30)
    if not answer.ok and "ALREADY_EXISTS" not in answer.text:
        sys.exit(f"make_users: the MLflow server refuses {path.partition('?')[0]}: {answer.text[:300]}")
    return answer.json()


if __name__ == "__main__":
    main()
