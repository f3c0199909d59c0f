"""Admission: pods get their volume, and TaskRuns the content of references back, when they are created."""
