"""The private HTTP API: what other systems may ask of the pipelines."""
