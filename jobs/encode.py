"""`ray job submit --working-dir . -- python jobs/encode.py CONFIG [overrides]`: what `vgse encode` does, on a cluster."""

from vgse.cli import job

if __name__ == "__main__":
    job("encode")
