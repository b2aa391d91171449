"""Tuning campaigns without Ray: the search space, the journal of trials, and what comes of them."""
