"""IBM's CLI edits a policy while an apply is under way: on `policyctl serve` its edit is not lost, and apply reports it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.directory import Directory
from tests.chaos.faults import REAL, Chaos, Play
from tests.chaos.messages import Request
from tests.chaos.proxy import proxying, server_at
from tests.conformance.orchestrate import SECRET, LogIn
from tests.remote.http_helpers import document, row
from tests.server.serving import loopback, serving
from tests.sqlite_rows import live_documents, put

WAS, OURS, THEIRS = (f"virtual-model/x/{name}" for name in ("was", "ours", "theirs"))
NAMES = [f"virtual-policy/p-{number:02}" for number in range(30)]
EDITED = {NAMES[7], NAMES[19]}


def test_an_edit_between_look_and_write_survives(tmp_path: Path, log_in: LogIn) -> None:
    with ExitStack() as stack:
        database = tmp_path / "served.db"
        put([{**row(name, WAS), "id": f"id-{name.rpartition('/')[2]}"} for name in NAMES], database)
        arguments = ["--token-from", "env:SERVE_SECRET"]
        served = stack.enter_context(serving(database, *arguments, environ={"SERVE_SECRET": SECRET}))
        for model in (WAS, OURS, THEIRS):
            body = {"name": model, "display_name": model, "description": model}
            made = loopback.post(f"{served.url}/v1/models", json=body, headers={"Authorization": f"Bearer {SECRET}"})
            assert made.status_code == 201
        ibm = log_in(tmp_path / "ibm", served, "local")
        chaos = Chaos(0, server_at(served.port), REAL)
        edits = Counter[str]()

        def play(request: Request) -> Play:
            """When apply comes to write a policy that it has looked at, IBM's CLI is quicker."""
            name = request.subject
            if request.is_write and name in EDITED and not edits[name]:
                edits[name] += 1
                (ibm.home / f"{edits.total()}.yaml").write_text(yaml.safe_dump(_file(name)))
                ibm("models", "policy", "import", "--file", f"{edits.total()}.yaml")
            return chaos.play(request)

        directory = Directory(tmp_path / "project", SECRET)
        directory.write(stack.enter_context(proxying(play)).url, (document(name, OURS) for name in NAMES), ["p-*"])
        ran = directory.run("apply", "--yes")

    assert ran.code == 5, ran
    assert edits == dict.fromkeys(EDITED, 1)
    assert chaos.commits == dict.fromkeys(set(NAMES) - EDITED, 1)
    models = {name: found["policy"]["targets"][0]["model_name"] for name, found in live_documents(database).items()}
    assert models == {name: THEIRS if name in EDITED else OURS for name in NAMES}
    for name, said in ran.told.items():
        assert said.status == ("failed" if name in EDITED else "applied")
        assert ("changed since the plan was made" in said.reason) == (name in EDITED)


def _file(name: str) -> dict[str, Any]:
    return {"spec_version": "v1", "kind": "model", **document(name, THEIRS)}
