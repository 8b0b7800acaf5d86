"""What is claimed as speed, runnable by anyone: `python -m bench.NAME --help`; see docs/benchmarks.md."""
