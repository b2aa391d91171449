"""`ray job submit --working-dir . -- python jobs/embed.py CONFIG [overrides]`: what `vgse embed` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("embed")
