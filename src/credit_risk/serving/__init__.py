"""The parts of the API that `6.production/app.py` connects: requests, predictions, model cache, middleware, metrics."""
