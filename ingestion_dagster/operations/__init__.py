"""What is done for every pipeline and belongs to none: sweeping, watching, reconciling, letting go of what is old."""
