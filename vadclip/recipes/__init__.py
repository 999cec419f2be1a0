"""Whole params files, one a dataset: `vadclip recipe <name>` writes one to params.yaml."""
