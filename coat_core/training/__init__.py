"""Training: batches, schedule, loop, checkpoints."""
