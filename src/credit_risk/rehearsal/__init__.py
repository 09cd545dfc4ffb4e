"""What `7.deploy/rehearse.py` rehearses releases with: containers behind HAProxy under load, and the scenarios."""
