"""Trains and judges the sample's CLIP; what renders the sample itself is vadclip/sample."""
