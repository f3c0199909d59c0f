"""Collection of garbage: content goes when its run is gone, or when its retention has passed."""
