"""VadCLIP itself, its losses, its files."""
