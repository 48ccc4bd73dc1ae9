"""How the processes of a training run: processes, Slurm, signals and devices."""
