"""Stage 1, annotations and files to the manifest."""
