"""Serving of a registered version over HTTP: chat completions, MLflow's scoring protocol, limits and metrics."""
