"""What `evaluation/health.py` checks of a benchmark, by subject."""
