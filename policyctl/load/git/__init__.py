"""Git: which repository a directory is in, what it holds at a revision, and what a checkout leaves out.

Nothing is checked out or fetched, and nothing that a checkout holds is run.
"""
