"""The machinery that runs a training: processes, Slurm, signals, devices."""
