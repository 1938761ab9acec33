"""Pictures of what agents do: `python -m benchmarks.acting` draws them from runs of the atlas."""
