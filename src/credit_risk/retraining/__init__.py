"""Retraining: new data in, a challenger out, by a policy; and what has changed since the champion."""
