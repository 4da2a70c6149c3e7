"""The control plane over HTTP, for `policyctl serve`: IBM's model-policy API over an embedded remote (extra `server`)."""
