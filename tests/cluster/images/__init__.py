"""Container images made without a registry, a daemon or a base image, and kept by content outside the checkout."""
