"""The embedded sample: a drawn world of fixed street cameras, and a small CLIP trained on others of it."""
