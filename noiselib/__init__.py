"""noiselib: calibrated noise for partitioned feature tables."""
