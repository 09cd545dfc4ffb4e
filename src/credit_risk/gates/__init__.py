"""What the performance gate measures of a registered version, and what its page shows."""
