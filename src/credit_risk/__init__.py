"""Code that the scripts of the numbered folders share. Files at this level are yours to edit, folders are machinery."""

import os

# ONNX Runtime sends telemetry unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
