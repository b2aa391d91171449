"""`ray job submit --working-dir . -- python jobs/run.py CONFIG [overrides]`: what `vgse run` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("run")
