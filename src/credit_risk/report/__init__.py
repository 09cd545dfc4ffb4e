"""The report and the model card: tables, plots, contents."""
