"""The page for a person who opens the server in a browser."""

from __future__ import annotations

# It shows nothing of the store: everyone may read it.
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>policyctl serve</title>
<h1>policyctl serve</h1>
<p>This is a control plane for model policies. It is for programs: its API is below <code>/v1</code>.
<ul>
<li><a href="/openapi.json">/openapi.json</a> describes the API (with a token, where the server has one)
<li><a href="/healthz">/healthz</a> shows whether the server can read its store
</ul>
<p>To use it with policyctl, write this server's URL into policyctl.yaml as the <code>remote</code> of an environment,
or try <code>policyctl plan --remote URL</code>.
</html>
"""
