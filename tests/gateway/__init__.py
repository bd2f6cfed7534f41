"""A real Envoy in front of Tollkeeper: for tests, benchmarks and the demo."""
