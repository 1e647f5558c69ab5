"""The ways out: Prometheus, OTLP, Hubble's gRPC API, health."""
