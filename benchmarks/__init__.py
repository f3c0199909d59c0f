"""What the filesystem costs, beside a plain directory and its peers, in one run: `python -m benchmarks`."""
