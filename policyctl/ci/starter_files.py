"""The files that `init` writes into an empty directory."""

from __future__ import annotations

import json
import re
from pathlib import Path

CONFIG = """\
# Where the policies of this directory go, and how much one apply may change.
# Every key is optional; without this file there is one environment, local, the embedded remote.

default: local                     # the environment when no --env is given

environments:
  local: {}                        # the embedded remote: a SQLite file in .policyctl/ beside this directory

  # prod:
  #   remote: https://api.us-south.watson-orchestrate.cloud.ibm.com/instances/<id>
  #   auth:
  #     type: ibm_iam
  #     api_key: env:WXO_API_KEY     # secrets are references, env:NAME or file:PATH, never values
  #   vars:
  #     flash_weight: 0.75           # for templates in policy files: weight: "{{ flash_weight }}"

# The names that this directory speaks for; other live policies are left alone. Needed to remove anything on a real remote.
# scope: ["virtual-policy/*"]

# Whether live policies in scope that no file names are removed.
# prune: true

# Policies that are never removed, and exceptions from that.
# protect: ["virtual-policy/prod-*"]
# allow_remove: ["virtual-policy/prod-old"]

# How much one plan may change: removed policies, and updated or removed ones in percent of those that are live.
# limits: {max_removes: 5, max_change_percent: 30}
"""

EXAMPLE = """\
spec_version: v1
kind: model
name: example
display_name: Example
description: Shares requests between two models, three to one
policy:
  strategy:
    mode: loadbalance              # or fallback (the next target when one fails), or single
  retry:
    attempts: 1
    on_status_codes: [429, 503]
  targets:
    - model_name: virtual-model/google/gemini-2.0-flash
      weight: 0.75                 # greater than 0, at most 1
    - model_name: virtual-model/google/gemini-2.0-flash-lite
      weight: 0.25
"""

EXAMPLE_TEST = """\
spec_version: v1
kind: policy_test
policy: example
tests:
  - name: three quarters of the requests go to flash
    expect: {served_by: {gemini-2.0-flash: 0.75, gemini-2.0-flash-lite: 0.25}}
  - name: a load balance does not move on, so requests fail while their model is down
    given: {gemini-2.0-flash: 503}
    expect: {status: {200: 0.25, 503: 0.75}}
"""

_HOOK = """\
  - repo: local
    hooks:
      - id: policyctl-validate
        name: policyctl validate
        entry: policyctl validate
        args: [{folder}]
        language: system
        files: {pattern}
        pass_filenames: false
        always_run: true               # a commit may also only delete or rename
"""


def pre_commit_config(folder: Path) -> str:
    """The pre-commit entry that checks a directory (relative to the repository's top) before each commit."""
    path = folder.as_posix()
    below = "" if path == "." else f"^{re.escape(path)}/"
    return _HOOK.format(folder=json.dumps(path), pattern=json.dumps(below))
