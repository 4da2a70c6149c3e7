"""Rules over valid policies: what a file may say but hardly means. One file a rule family, stable codes."""
