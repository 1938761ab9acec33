"""Real data sets: address, SHA-256, licence and a loader, one file each."""
