"""Training: one optimization step, the run around it, validation, resuming and metrics."""
