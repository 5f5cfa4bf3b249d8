"""Tests of the catalogue pipeline."""
