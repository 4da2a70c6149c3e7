"""The command line: one command, one file, one function of plain values that returns an exit code."""
