"""From figures to decisions: pure functions over counts, flows and cluster objects. No input or output here."""
