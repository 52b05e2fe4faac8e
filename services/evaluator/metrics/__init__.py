"""Metrics of one answer: pure functions, offline, the same for Russian and English. See docs/metrics.md."""
