"""Training: dataset, batches, schedule, trainer, checkpoints."""
