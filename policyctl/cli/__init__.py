"""The command line: one command, one function of plain values that returns an exit code."""

import gc

# Imports, and loading thousands of policies, make many objects and no garbage: the collector would visit them again and again.
gc.disable()
