"""What scenarios are about: simulators of systems, numbers from raw data, rules of a field."""
