"""The parts of the API that 6.production/app.py puts together."""
