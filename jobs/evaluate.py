"""`ray job submit --working-dir . -- python jobs/evaluate.py CONFIG [overrides]`: what `vgse evaluate` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("evaluate")
