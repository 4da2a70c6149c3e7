"""Continuous mode: looks at environments again and again, and applies what their settings allow."""
