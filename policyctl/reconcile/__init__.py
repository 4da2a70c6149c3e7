"""Observing a remote, planning, applying and verifying: what decides is in plan, what reads and writes in load and remote."""
