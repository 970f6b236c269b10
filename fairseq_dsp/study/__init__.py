"""What a study is, its runs, and where they run: on this machine or a SLURM cluster."""
