"""Tests of the life events pipeline."""
