"""The stages on Ray. The only rooms, with the command line and the jobs, that import ray."""
