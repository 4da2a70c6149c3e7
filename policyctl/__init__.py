"""policyctl keeps model policies in Git: validate, plan, apply."""

__version__ = "0.1.0"
