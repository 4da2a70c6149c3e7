"""Rules over valid policies: what a file may contain but is likely a mistake. Codes are stable."""
