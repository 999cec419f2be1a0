"""Frames of a video file by number: what there is, and reading it."""
