"""The control plane over HTTP, for `policyctl serve`: the platform's API over a store (extra `server`)."""
