"""What the sidecar has decided of late, for a person who has neither Jaeger nor Grafana at hand: one page, no texts."""
