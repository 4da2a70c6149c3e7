"""The control plane over HTTP, for `policyctl serve`: the platform's API over an embedded remote (extra `server`)."""
