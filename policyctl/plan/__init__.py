"""Pure decisions: change, diff, order, plan, guards, and apply's rules. No I/O, no clock, no logging."""
