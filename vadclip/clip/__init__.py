"""The frozen CLIP: crops, image tower, text tower, weights."""
