"""What a laptop needs in place of the outside world: servers that behave as the real ones were observed to."""
