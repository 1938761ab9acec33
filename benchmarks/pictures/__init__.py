"""Pictures of what models predict: `python -m benchmarks.pictures` draws them from atlas runs."""
