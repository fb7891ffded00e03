"""How a sidecar, and a pool of models, are deployed."""
