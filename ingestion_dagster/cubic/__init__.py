"""Transit data (Cubic): ODS, DMAP and Kafka files to Parquet, a catalogue and current tables."""
