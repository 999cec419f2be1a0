"""Supervised Ray actors; nothing here knows of video or CLIP."""
