"""Floor 2: batched simulation and adapters to benchmark suites."""
