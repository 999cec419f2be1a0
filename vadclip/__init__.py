"""VadCLIP as a pipeline: surveillance video -> CLIP features -> a trained anomaly detector -> honest figures.

Importing this package imports nothing heavy; each module names the stage of the data flow that it serves.
"""

__version__ = "0.1.0"
