"""Reading and checking data: sources, validation of frames, splits."""
