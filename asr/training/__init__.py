"""Training: steps, epochs, validation, resuming and metrics."""
