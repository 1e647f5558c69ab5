"""Network policies: what they say of traffic that was seen, and which would say what it needs."""
