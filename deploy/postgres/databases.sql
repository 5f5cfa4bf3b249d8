-- Run once, when the server of deploy/compose.yaml is made: what stands beside the database `ingestion`.
-- Dagster's own tables.
CREATE DATABASE dagster;
-- The public API's tables of the catalogue. In a real installation it has a server of its own, as what is upstream has.
CREATE DATABASE catalog_api;
