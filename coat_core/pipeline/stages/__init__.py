"""One module per stage of `dvc.yaml`, each with `run(run: StageRun)`: parameters and paths in, files out."""
