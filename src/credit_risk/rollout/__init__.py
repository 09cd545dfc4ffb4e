"""How `7.deploy/release.py` releases an image: the stack of servers, deployments, traffic, checks and the way back."""
