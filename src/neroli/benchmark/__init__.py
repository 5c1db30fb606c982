"""The benchmark: every detector on known ID and OOD data, with intervals, and a report."""
