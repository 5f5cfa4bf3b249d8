"""The partitions of ods tables: the snapshots that have come up."""

import dagster as dg

SNAPSHOTS = dg.DynamicPartitionsDefinition(name="cubic_snapshots")
"""Shared by all ods tables; a key is a snapshot, such as `20220101T204950Z`."""
