"""Real processes, real failures, checked histories. README.md says how to run it."""
