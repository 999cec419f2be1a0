"""Whether one model is better than another: paired over the same test videos, and over seeds."""
