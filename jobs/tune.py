"""`vgse tune` as a job: `ray job submit --working-dir . -- python jobs/tune.py CONFIG [overrides]`."""

from vgse.cli import job

if __name__ == "__main__":
    job("tune")
