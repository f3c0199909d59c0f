"""The controller on a real API server, without nodes."""
