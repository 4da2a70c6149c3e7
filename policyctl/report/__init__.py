"""Values in, text out. Nothing here decides anything, reads or writes."""
