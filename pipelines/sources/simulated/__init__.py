"""The deterministic fleet simulator: see docs/simulator.md."""
