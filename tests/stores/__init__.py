"""Data stores beside their own counts."""
