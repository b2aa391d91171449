"""`ray job submit --working-dir . -- python jobs/cluster.py CONFIG [overrides]`: what `vgse cluster` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("cluster")
