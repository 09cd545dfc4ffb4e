"""Report, model card and plots. Optional: stage 6 has two lines that use it, and nothing else does."""
