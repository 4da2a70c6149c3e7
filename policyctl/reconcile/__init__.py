"""The shell around core: observing, planning, applying, verifying."""
