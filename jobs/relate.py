"""`ray job submit --working-dir . -- python jobs/relate.py CONFIG [overrides]`: what `vgse relate` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("relate")
