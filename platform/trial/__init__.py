"""A single trial: from a checked config to a finished, resumable run."""
