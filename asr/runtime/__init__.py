"""Process management for training: launching, Slurm, signals and devices."""
