"""Prefect flows: the chain, its retries and its deployments. Nothing of the domain lives here."""
