"""Text in, policies or problems out: one file, a directory, templates, policyctl.yaml; and policy files out again."""
