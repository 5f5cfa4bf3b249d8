"""Tests of the residents pipeline."""
