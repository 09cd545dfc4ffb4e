"""What became of the predictions: the shipped log, outcomes, drift, and performance with and without outcomes."""
