"""Pages that a run leaves to be looked at: one HTML file each, with nothing to download."""
