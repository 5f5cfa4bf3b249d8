"""Tests of the cubic pipeline."""
