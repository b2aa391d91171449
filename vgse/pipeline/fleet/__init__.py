"""Clusters on paper: the files that describe them, whether Ray accepts these, what runs there and what it costs."""
