"""Creates the users of a new MLflow server; existing ones stay. Runs after each start of the server.

`pipeline` creates experiment and model with its first run and therefore manages them; `service`, like all users, can
read them (`default_permission` of users.ini).

Environment: MLFLOW_ADMIN_PASSWORD, MLFLOW_PIPELINE_PASSWORD, MLFLOW_SERVICE_PASSWORD; MLFLOW_URL (default: port 5000 of
this machine). Uses nothing of the project's package, which the server's image does not contain.
"""

import os
import sys

import requests

URL = os.environ.get("MLFLOW_URL", "http://localhost:5000")


def main() -> None:
    """Creates the users."""
    admin = ("admin", os.environ["MLFLOW_ADMIN_PASSWORD"])
    for user in ("pipeline", "service"):
        body = {"username": user, "password": os.environ[f"MLFLOW_{user.upper()}_PASSWORD"]}
        response = requests.post(f"{URL}/api/2.0/mlflow/users/create", json=body, auth=admin, timeout=30)
        if not response.ok and "ALREADY_EXISTS" not in response.text:
            sys.exit(f"make_users: the MLflow server rejects the user {user}: {response.text[:300]}")
    print("the users exist")


if __name__ == "__main__":
    main()
