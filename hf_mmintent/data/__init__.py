"""Rows: loading, safe reading of feature files, batches."""
