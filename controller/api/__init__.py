"""The HTTP API: results of runs for whoever may `get` the run."""
