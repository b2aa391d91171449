"""`ray job submit --working-dir . -- python jobs/crop.py CONFIG [overrides]`: what `vgse crop` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("crop")
