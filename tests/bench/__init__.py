"""The benchmark: a program, not a test. See bench.py."""
