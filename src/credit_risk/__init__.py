"""What more than one room of the project needs, once. The package never imports from a room."""

import os

# ONNX Runtime reports to its makers unless told otherwise before it is imported; a bank's servers must not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
