"""Tests of the private HTTP API."""
