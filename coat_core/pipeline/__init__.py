"""The pipeline: its stages, the graph of `dvc.yaml` as data, and workspaces."""
