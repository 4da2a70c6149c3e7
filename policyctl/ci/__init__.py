"""GitHub and GitLab: workflows, comments on pull requests, and what a merge approved."""
