"""Frames of a video file by number: counting them, and reading them."""
