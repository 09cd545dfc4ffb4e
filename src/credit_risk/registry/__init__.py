"""The MLflow registry: client, lineage, signature, promotion, gate results, preflight checks, rebuild."""
