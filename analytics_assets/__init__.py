"""Analytics Assets: event exports in, checked and published customer metrics out, on Dagster and DuckDB."""
