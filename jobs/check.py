"""`ray job submit --working-dir . -- python jobs/check.py CONFIG [overrides]`: what `vgse check` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("check")
