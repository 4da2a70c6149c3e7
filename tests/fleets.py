"""A fleet of three environments: two rows of an inventory over templates, and one that is written out."""

from __future__ import annotations

FLEET = """
scope: ["virtual-policy/*"]
limits: {max_removes: 5, max_change_percent: 30}
allow_origins: ["https://api.*.example.com"]
templates:
  instance:
    remote: "https://api.{{ region }}.example.com/instances/{{ instance }}"
    auth: {type: ibm_iam, api_key: "file:/run/secrets/{{ tenant }}"}
    vars: {lite: 0.1, keep: 1}
  gold: {extends: instance, limits: {max_removes: 0}, vars: {lite: 0.25}, scope: ["gold-*"]}
fleet:
  - from: tenants.csv
    name: "prod-{{ tenant }}"
    extends: instance
    labels: [region, ring]
    vars: [share]
"""
ENVIRONMENTS = """
environments:
  dev: {remote: local}
  prod-acme: {vars: {lite: 0.5, keep: null}, suspend: {reason: migration, until: 2999-12-04}}
"""
ROWS = "tenant,region,instance,ring,share,extends\nacme,us-south,0a1b,canary,0.3,gold\nbolt,eu-de,0a1c,1,,\n"
