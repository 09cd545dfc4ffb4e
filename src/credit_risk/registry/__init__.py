"""The MLflow registry: client, lineage, signature, promotion, gates, preflight checks, rebuild."""
