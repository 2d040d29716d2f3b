"""Prefect flows: the chain, its retries and its deployments. No domain logic."""
