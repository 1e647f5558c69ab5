"""The capture pipeline: source, decode, attribute, aggregate, snapshot."""
