"""The partitions of cubic tables: snapshots that have come up, and days."""

import dagster as dg

SNAPSHOTS = dg.DynamicPartitionsDefinition(name="cubic_snapshots")
"""Shared by all ods tables; a key is a snapshot, such as `20220101T204950Z`."""

DAYS = dg.DailyPartitionsDefinition(start_date="2022-01-01", timezone="UTC", end_offset=1)
"""The day on which a load was discovered, UTC; they begin before the first that an adopted system can have loaded."""
