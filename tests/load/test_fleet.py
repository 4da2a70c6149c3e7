"""Many environments from few lines: what is merged over what, what is rendered, and what no row may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from policyctl.errors import InvalidInput, UsageError
from policyctl.load.discovery import load_config
from policyctl.load.environment import Config, Environment
from tests.conftest import Project
from tests.fleets import ENVIRONMENTS, FLEET, ROWS
from tests.problem_lines import shows


def loaded(project: Project, config: str = FLEET + ENVIRONMENTS, rows: str | None = ROWS, name: str = "tenants.csv") -> Config:
    if rows is not None:
        project.write(name, rows)
    return load_config(project.write("policyctl.yaml", config))


def refused(project: Project, *args: Any, **more: Any) -> list[str]:
    """The problems, each from its file's name on."""
    with pytest.raises(InvalidInput) as raised:
        loaded(project, *args, **more)
    return [re.sub(r"[^ ]*policies/", "", str(problem)) for problem in raised.value.problems]


def settings_of(one: Environment) -> Mapping[str, Any]:
    assert one.auth is not None
    return {"remote": one.remote, "key": one.auth.api_key, "vars": one.vars, "labels": one.labels}


def test_each_row_is_an_environment_whose_settings_are_merged_in_order(project: Project) -> None:
    config = loaded(project)
    assert list(config.environments) == ["prod-acme", "prod-bolt", "dev"]
    acme, bolt = config.environments["prod-acme"], config.environments["prod-bolt"]
    assert settings_of(acme) == {
        "remote": "https://api.us-south.example.com/instances/0a1b",
        "key": "file:/run/secrets/acme",
        "vars": {"lite": 0.5, "share": 0.3},
        "labels": {"region": "us-south", "ring": "canary"},
    }
    assert settings_of(bolt) == {
        "remote": "https://api.eu-de.example.com/instances/0a1c",
        "key": "file:/run/secrets/bolt",
        "vars": {"lite": 0.1, "keep": 1},
        "labels": {"region": "eu-de", "ring": "1"},
    }
    assert (acme.settings.limits.max_removes, bolt.settings.limits.max_removes) == (0, 5)
    assert acme.settings.limits.max_change_percent == 30
    assert (acme.settings.scope, bolt.settings.scope) == (("gold-*",), ("virtual-policy/*",))
    assert (acme.suspended, bolt.suspended) == ("migration (until 2999-12-04)", None)


def test_a_suspension_ends_on_its_day(project: Project) -> None:
    config = loaded(project, FLEET + ENVIRONMENTS.replace("2999", "2001"))
    assert config.environments["prod-acme"].suspended is None


def test_only_listed_columns_are_variables_so_that_another_ring_changes_no_digest(project: Project) -> None:
    before = loaded(project).environments["prod-bolt"]
    after = loaded(project, rows=ROWS.replace(",1,,", ",2,,")).environments["prod-bolt"]
    assert (before.labels["ring"], after.labels["ring"]) == ("1", "2")
    assert before.digest == after.digest
    assert loaded(project, rows=ROWS.replace(",1,,", ",1,0.7,")).environments["prod-bolt"].digest != before.digest


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("tenants.yaml", "- {tenant: acme, region: eu, instance: a, ring: 1, share: 0.3}\n"),
        ("tenants.json", '[{"tenant": "acme", "region": "eu", "instance": "a", "ring": 1, "share": 0.3}]'),
        ("tenants.csv", '﻿tenant , region,instance,ring,share\r\n"acme",eu,a,1,0.3\r\n\r\n'),
    ],
)
def test_an_inventory_is_csv_yaml_or_json_and_not_a_policy_file(name: str, rows: str, project: Project) -> None:
    config = loaded(project, FLEET.replace("tenants.csv", name), rows, name)
    assert config.environments["prod-acme"].vars == {"lite": 0.1, "keep": 1, "share": 0.3}
    assert config.environments["prod-acme"].labels == {"region": "eu", "ring": "1"}
    assert config.is_inventory(str(project.policies / name))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("", "tenants.csv: has no rows [P310]"),
        ("tenant,region,instance,ring,share\n", "tenants.csv: has no rows [P310]"),
        (ROWS + "cash,eu-de\n", "tenants.csv:4:1: the row has 2 fields, and the header 6 [P310]"),
        (ROWS + "a,b,c,d,e,f,g\n", "tenants.csv:4:1: the row has 7 fields, and the header 6 [P310]"),
        (ROWS + "acme,eu-de,x,1,,\n", "tenants.csv:4:1: a second row makes prod-acme (the first is at  [P310]"),
        (ROWS + "cash,eu-de,x,1,,silver\n", "tenants.csv:4:1: unknown template silver [P310]"),
        (ROWS + ",eu-de,x,1,,\n", "tenants.csv:4:1: the row has no name: the variable tenant is not set [P310]"),
        (ROWS + "a/b,eu-de,x,1,,\n", 'tenants.csv:4:1: "prod-a/b" is not a name [P307]'),
        (ROWS + '"cash,eu-de,x,1,,\n', "tenants.csv:4:1: is not CSV [P310]"),
        (ROWS.replace("share", "ring"), "tenants.csv:1:1: the column ring is there twice [P310]"),
        (ROWS.replace("share", "my share"), 'tenants.csv:1:1: "my share" is not the name of a column [P310]'),
        (ROWS.replace("share", "shore"), "policyctl.yaml:16:12: tenants.csv has no column share (did you mean shore?) [P309]"),
        (ROWS + "cash,eu-de,0a1c,1,,\n", "tenants.csv:4:1: prod-cash has the remote of prod-bolt [P313]"),
        (None, "tenants.csv: the file does not exist [P001]"),
    ],
)
def test_an_inventory_that_is_not_whole_stops_everything(rows: str | None, found: str, project: Project) -> None:
    """With the file and the row: a missing row must never mean that an environment is gone."""
    problems = refused(project, rows=rows)
    assert any(shows(found, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            "extends: instance, limits",
            "extends: instanze, limits",
            "unknown template instanze (did you mean instance?)",
        ),
        ("  instance:\n", "  instance:\n    extends: gold\n", "leads back; remove one extends"),
        ('scope: ["gold-*"]', 'scope: ["{{ tenant }}-*"]', "expressions are not rendered in scope [P309]"),
        ("vars: [share]", "vars: [share]\n    min: 3", " [P310]"),
        ('example.com"]', 'example.com/instances/1"]', "allow_origins item: must be https://HOST or https://HOST:PORT"),
        ("from: tenants.csv", "from: ../tenants.csv", "must be a file beside policyctl.yaml"),
        ("from: tenants.csv", "from: tenants.txt", "must be a file in CSV, YAML or JSON"),
        ("allow_origins", "required_version: '>=9'\nallow_origins", "this is policyctl  [P312]"),
        (
            "allow_origins",
            "required_version: 'about 1'\nnew: 1\nallow_origins",
            "'about 1' is not a range of versions [P312]",
        ),
        ("labels: [region, ring]", "label: [region, ring]", 'unknown key "label" (did you mean labels?)'),
    ],
)
def test_a_description_that_does_not_fit_together_is_refused(before: str, after: str, found: str, project: Project) -> None:
    problems = refused(project, (FLEET + ENVIRONMENTS).replace(before, after, 1))
    assert any(shows(found, problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (
            "cash,evil.org/x?,0a1d,1,,",
            'remote: credentials would go to "https://api.evil.org", which allow_ [P311]',
        ),
        ("cash,a.b,0a1d,1,,", 'go to "https://api.a.b.example.com", which'),
        ("..,eu-de,0a1d,1,,", "auth.api_key: tenant is [P311]"),
        ("cash,,0a1d,1,,", "remote: the variable region is not set [P311]"),
        ("cash,eu-de,0a1d?x=1,1,,", " [P304]"),
        ("cash,eu-de,x/../0a1c,1,,", "must not have . or .. in its path"),
        ("cash,eu-de,x/%2e%2E/0a1c,1,,", "must not have . or .. in its path"),
    ],
)
def test_a_row_that_leads_astray_breaks_its_own_environment_alone(row: str, found: str, project: Project) -> None:
    name = "prod-" + row.partition(",")[0]
    config = loaded(project, FLEET + ENVIRONMENTS, ROWS + row + "\n")
    assert set(config.environments) == {"prod-acme", "prod-bolt", "dev"}
    assert shows(found, str(config.broken[name][0]))
    assert "tenants.csv:4" in str(config.broken[name][0])
    assert name in config.labels
    with pytest.raises(InvalidInput):
        config.environment(name)
    with pytest.raises(UsageError, match="known: "):
        config.environment("elsewhere")


@pytest.mark.parametrize(
    ("template", "cell", "found"),
    [
        (
            '{remote: "https://api.example.com/instances/1", auth: {type: mcsp, api_key: "env:K", url: "https://{{ at }}"}}',
            "iam.evil.example",
            'auth.url: credentials would go to "https://iam.evil.example", which allow_origins does not have',
        ),
        ('{remote: "{{ at }}"}', "https://evil.example/instances/1", "which allow_origins does not have"),
        ('{remote: "{{ at }}"}', "postgresql://evil.example/p", "a row decides which server it is"),
        ('{remote: "postgresql://{{ at }}/p"}', "evil.example", "a row decides which server it is"),
        ('{remote: "postgresql://db/{{ at }}"}', "p?host=evil.example", "a row decides which server it is"),
        ('{remote: "postgresql://{{ at }}@db/p"}', "x@evil.example/", "a row decides which server it is"),
        ('{remote: "postgresql://db/{{ at }}"}', "p?sslmode=disable", "in the URL of a database only letters"),
        ('{remote: "postgresql://db/{{ at }}"}', "p?user=admin", "in the URL of a database only letters"),
        ('{remote: "postgresql://db/p?sslmode={{ at }}"}', "disable&user=admin", "in the URL of a database only letters"),
        ('{remote: "postgresql://db/{{ at }}"}', "p%3Fuser=admin", "in the URL of a database only letters"),
        ('{remote: "{{ at }}"}', "sqlite:////var/lib/other.db", "in a path or a login only letters"),
        ('{remote: "{{ at }}"}', "sqlite:///../../other.db", "in a path or a login only letters"),
    ],
)
def test_a_row_leads_neither_a_login_nor_a_database_elsewhere(template: str, cell: str, found: str, project: Project) -> None:
    text = f"""
allow_origins: ["https://api.*.example.com"]
templates:
  one: {template}
fleet:
  - {{from: tenants.csv, name: "t-{{{{ tenant }}}}", extends: one}}
"""
    config = loaded(project, text, f"tenant,at\na,{cell}\n")
    assert shows(found, str(config.broken["t-a"][0]))


def test_a_server_that_is_written_out_needs_no_list(project: Project) -> None:
    config = FLEET.replace("api.{{ region }}.example.com", "api.example.com").replace("allow_origins", "protect: [x]\n#")
    assert loaded(project, config).environments["prod-bolt"].remote == "https://api.example.com/instances/0a1c"


def test_a_row_may_name_the_database_on_a_postgresql_server(project: Project) -> None:
    config = """
templates:
  one: {remote: "postgresql://db.example/{{ tenant }}"}
fleet:
  - {from: tenants.csv, name: "t-{{ tenant }}", extends: one}
"""
    assert loaded(project, config, "tenant\na\n").environments["t-a"].remote == "postgresql://db.example/a"


def test_what_was_rendered_is_not_rendered_again(project: Project) -> None:
    row = 'cash,eu-de,x,1,"{{ tenant }}",\n'
    config = loaded(project, rows=ROWS + row)
    assert config.environments["prod-cash"].vars["share"] == "{{ tenant }}"
    assert loaded(project, "environments: {dev: {vars: {x: '{{ y }}'}}}", None).environments["dev"].vars == {"x": "{{ y }}"}


def test_an_environment_may_extend_a_template_without_an_inventory(project: Project) -> None:
    config = (
        FLEET.partition("fleet:")[0]
        + """
environments:
  qa: {extends: gold, vars: {region: eu, instance: q, tenant: qa}, auth: {type: bearer, api_key: null, token: "env:T"}}
"""
    )
    qa = loaded(project, config, None).environment(None)
    assert (qa.name, qa.remote, qa.vars["lite"]) == ("qa", "https://api.eu.example.com/instances/q", 0.25)
    assert qa.auth is not None
    assert qa.auth.model_dump(exclude_none=True) == {"type": "bearer", "token": "env:T"}


@pytest.mark.parametrize(
    ("one", "other", "prune", "refuses"),
    [
        ("[a-*]", "[b-*]", True, False),
        ("[a-*]", "[a-*]", True, True),
        ("['*']", "[b-*]", True, True),
        ("[team-x-*]", "[team-*]", True, True),
        ("[a, b]", "[b]", True, True),
        ("[virtual-policy/a*]", "['a*', 'c']", True, True),
        ("['a*', 'c']", "[virtual-policy/a-b]", True, True),
        ("['*']", "[virtual-model/x/*]", True, True),
        ("['*']", "[b-*]", False, False),
        ("[b-*]", "['*']", False, True),
    ],
)
def test_environments_that_are_written_out_may_share_a_remote_only_with_scopes_of_their_own(
    one: str, other: str, prune: bool, refuses: bool, project: Project
) -> None:
    """What one of them has in scope without removing it is left to the other: `prune` is that of the first."""
    remotes = "https://x.example/1", "https://X.example:443/1/"
    rows = [
        f"  {name}: {{remote: '{remote}', scope: {scope}{more}}}\n"
        for name, remote, scope, more in zip("ab", remotes, (one, other), ("" if prune else ", prune: false", ""), strict=True)
    ]
    text = "environments:\n" + "".join(rows)
    if not refuses:
        assert len(loaded(project, text, None).environments) == 2
    else:
        assert refused(project, text, None) == [
            "policyctl.yaml:3:15: b has the remote of a: each would remove what only the other has; give each its own [P313]"
        ]


@pytest.mark.parametrize(
    "remotes",
    [
        ("https://x.example/instances/a", "https://x.example./instances/a"),
        ("https://x.example/instances/a", "https://x.example/instances/%61"),
        ("http://localhost:4321/instances/a", "http://127.0.0.1:4321/instances/a"),
        ("postgresql://db.example/p", "postgresql://me@DB.example:5432/p?sslmode=require"),
        ("sqlite:///a.db", "sqlite:///%61.db"),
        ("sqlite:///a.db", "sqlite:///HERE/./a.db"),
        ("sqlite:///a.db", "sqlite:////HERE/a.db"),
        ("sqlite:///a.db", "sqlite:///linked/a.db"),
        ("sqlite:///there.db", "sqlite:///hard.db"),
        ("local", "sqlite:///../.policyctl/a.db"),
        ("local", "sqlite:///.policyctl/a.db"),
        ("local", "sqlite:////HERE/../.policyctl/a.db"),
        ("local", "sqlite:///linked/../.policyctl/%61.db"),
        ("local", "sqlite:///deeper/.policyctl/a.db"),
        ("https://x.example/instances/a", "https://x.example/instances/a/v1/orchestrate"),
        ("http://localhost:4321/instances/a", "http://0.0.0.0:4321/instances/a/v1/"),
        ("http://localhost:4321", "http://localhost:4321/v1"),
    ],
)
def test_one_remote_in_two_spellings_is_one_remote(remotes: tuple[str, str], project: Project) -> None:
    here = str(project.policies.resolve())
    (project.policies / "linked").symlink_to(".")
    (project.policies / "there.db").touch()
    (project.policies / "hard.db").hardlink_to(project.policies / "there.db")
    rows = [f"  {name}: {{remote: '{one.replace('HERE', here)}'}}\n" for name, one in zip("ab", remotes, strict=True)]
    assert shows("b has the remote of a", refused(project, "environments:\n" + "".join(rows), None)[0])


@pytest.mark.parametrize(
    "remotes",
    [
        ("local", "local"),
        ("local", "sqlite:///../.policyctl/c.db"),
        ("local", "sqlite:////elsewhere/.policyctl/a.db"),
        ("sqlite:///a.db", "sqlite:///b/.policyctl/a.db"),
        ("https://x.example/instances/a", "https://x.example/instances/a/v1"),
    ],
)
def test_two_remotes_that_look_alike_are_two(remotes: tuple[str, str], project: Project) -> None:
    rows = [f"  {name}: {{remote: '{one}'}}\n" for name, one in zip("ab", remotes, strict=True)]
    assert len(loaded(project, "environments:\n" + "".join(rows), None).environments) == 2
