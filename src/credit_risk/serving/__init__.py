"""What serves: the parts of the API that 6.production/app.py puts together, and the keeper's log and counters."""
