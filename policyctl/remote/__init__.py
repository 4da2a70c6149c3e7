"""The outside world: the protocol that every remote follows, and one module a kind of remote."""
