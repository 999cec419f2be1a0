"""The feature store: Parquet shards with provenance, an index, a reader."""
