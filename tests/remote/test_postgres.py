"""What a store in PostgreSQL adds to the contract: writes whose answers were lost, formats, access, and several servers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from policyctl.errors import Conflict, LostAnswer, RemoteError
from policyctl.load.urls import postgres_identity, remote_url_error
from policyctl.remote import Backoff
from policyctl.remote.postgres import AT_ONCE, LONGEST_NAME, PostgresDatabase, PostgresRemote, open_postgres_reader
from policyctl.remote.store import DocumentTable, ModelTable, QuotaReached
from policyctl.server.documents import BINDINGS, COLLECTIONS, WORKSPACES
from tests.conftest import ANYGEM, Policyctl, Project
from tests.dropping_proxy import dropping, first, through
from tests.patience import LONGEST
from tests.postgres import GUARDED, PASSWORD, PostgresServer
from tests.remote.http_helpers import document

WRITES: dict[str, tuple[bytes, Callable[[PostgresRemote, str], object], list[str]]] = {
    "an add": (b"INSERT INTO policyctl.policy", lambda store, _: store.add(document("b")), ["a", "b"]),
    "an add within a quota": (b"COMMIT", lambda store, _: store.insert(document("b"), 2), ["a", "b"]),
    "an update": (b"UPDATE policyctl.policy", lambda store, found: store.update(found, document("c")), ["c"]),
    "a removal": (b"DELETE FROM policyctl.policy", lambda store, found: store.remove(found), []),
}


@pytest.mark.parametrize("case", WRITES)
def test_a_write_whose_answer_was_lost_happens_once_and_is_reported_as_done(postgres: PostgresServer, case: str) -> None:
    words, write, after = WRITES[case]
    name = postgres.new_database()
    with dropping(postgres.port, lambda _: False) as proxy, PostgresRemote(through(proxy, name)) as store:
        found = store.add(document("a"))
        proxy.loses = first(words)
        write(store, found)
        assert proxy.dropped == 1
        assert [row["name"] for row in store.rows()] == after
    assert postgres.execute("SELECT count(*) FROM policyctl.written", name) == [(2,)]
    if case == "an update":
        assert postgres.execute("SELECT version FROM policyctl.policy", name) == [(2,)]


def test_what_another_removed_before_an_add_was_sent_again_does_not_come_back(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    sent: list[bytes] = []
    with PostgresRemote(postgres.url(name)) as other:

        def loses(piece: bytes) -> bool:
            if b"INSERT INTO policyctl.policy" not in piece:
                return False
            sent.append(piece)
            for row in other.rows():  # between the first time and the second
                other.remove(row["id"])
            return len(sent) == 1

        with dropping(postgres.port, loses) as proxy, PostgresRemote(through(proxy, name)) as store:
            store.add(document("a"))
        assert len(sent) == 2
        assert list(other.rows()) == []


@pytest.mark.parametrize(("words", "error"), [(b"INSERT INTO policyctl.policy", LostAnswer), (b"pg_class", RemoteError)])
def test_a_write_is_only_unknown_if_it_was_sent(postgres: PostgresServer, words: bytes, error: type[RemoteError]) -> None:
    """When the database does not come back in time."""
    with dropping(postgres.port, lambda _: False) as proxy:
        url = through(proxy, postgres.new_database())
        with PostgresRemote(url) as made:
            made.database.prepare()

        def loses(piece: bytes) -> bool:
            if words not in piece:
                return False
            proxy.close()
            return True

        with PostgresRemote(url) as store:
            store.database.patience = Backoff(tries=3, first=0.01)
            proxy.loses = loses
            with pytest.raises(RemoteError, match="connection") as raised:
                store.add(document("a"))
            assert type(raised.value) is error
            assert "\n" not in str(raised.value)


def test_a_database_that_hangs_is_given_up_on(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections do not break, since its machine still acknowledges what is sent. A request would wait for ever."""
    monkeypatch.setattr("policyctl.remote.postgres.SILENCE", 2.0)
    goes_on = Event()
    words = b"ORDER BY name"

    def hangs(piece: bytes) -> bool:
        if words in piece:
            goes_on.wait(LONGEST)
        return False

    with dropping(postgres.port, hangs) as proxy, PostgresRemote(through(proxy, postgres.new_database())) as store:
        found = store.add(document("a"))
        store.database.patience = Backoff(tries=1)
        with pytest.raises(RemoteError, match=r"the database has not answered for 2 s"):
            list(store.rows())
        assert store.count() == 1
        words = b"DELETE FROM policyctl.policy"
        with pytest.raises(LostAnswer):
            store.remove(found)
        goes_on.set()


def test_connections_that_the_server_ended_are_replaced(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    with PostgresRemote(postgres.url(name)) as store:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: store.add(document(f"p{number}")), range(8)))
        ended = postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        assert ended
        store.add(document("a"))
        assert store.count() == 9


def test_the_quota_holds_for_all_servers_together(database: str) -> None:
    with ExitStack() as stack:
        stores = [stack.enter_context(PostgresRemote(database)) for _ in range(3)]

        def add(number: int) -> bool:
            try:
                stores[number % 3].insert(document(f"p{number}"), 10)
            except QuotaReached as error:
                return error.stored < 10
            return True

        with ThreadPoolExecutor(12) as pool:
            assert sum(pool.map(add, range(40))) == 10
        assert stores[0].count() == 10


def test_stores_that_start_at_once_make_the_tables_once(postgres: PostgresServer) -> None:
    name = postgres.new_database()

    def start(_: int) -> None:
        with PostgresRemote(postgres.url(name)) as store:
            store.database.prepare()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    assert postgres.execute("SELECT version, unique_names FROM policyctl.format", name) == [(1, True)]


def test_reading_makes_nothing_and_cannot_write(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    with open_postgres_reader(postgres.url(name), models=True) as reader:
        assert (list(reader.rows()), reader.find(["virtual-policy/a"]), reader.models()) == ([], [], frozenset())
        with pytest.raises(RemoteError, match="was opened for reading"):
            ModelTable(reader.database, "model").insert({"name": "m"})
        assert isinstance(reader.database, PostgresDatabase)
        with pytest.raises(RemoteError, match="read-only transaction"):
            reader.database.run(lambda connection, _: connection.execute("CREATE SCHEMA policyctl"), patience=AT_ONCE)
    assert postgres.execute("SELECT FROM pg_namespace WHERE nspname = 'policyctl'", name) == []


def test_a_store_of_a_newer_policyctl_is_refused(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    with PostgresRemote(postgres.url(name)) as store:
        store.add(document("a"))
        postgres.execute("UPDATE policyctl.format SET version = 99", name)
        store.add(document("b"))  # what runs goes on: its successor left what it needs
    for opened in (PostgresRemote(postgres.url(name)), open_postgres_reader(postgres.url(name))):
        with opened, pytest.raises(RemoteError, match=r"newer policyctl \(format 99\)"):
            opened.count()


def test_whether_names_are_unique_is_decided_when_the_store_is_made(database: str) -> None:
    with PostgresRemote(database, unique_names=False) as store:
        assert not store.database.names_are_unique()
        assert store.add(document("a")) != store.add(document("a"))
    with PostgresRemote(database) as store:
        assert not store.database.names_are_unique()
        ModelTable(store.database, "model").insert({"name": "m"})
        ModelTable(store.database, "model").insert({"name": "m"})


def test_every_kind_of_document_that_serve_stores_has_a_table(database: str) -> None:
    kinds = [one.kind for one in (*COLLECTIONS, BINDINGS, WORKSPACES)]
    with PostgresRemote(database) as store:
        for kind in (*kinds, "connection", "setting"):
            table = DocumentTable(store.database, kind)
            row = table.insert({"id": "mine", "name": "d", "x": 1})
            assert table.rows() == table.named(["d"]) == table.by_id(["mine"]) == [row]
            with pytest.raises(Conflict):
                table.insert({"id": "mine", "name": "e"})


NAMES = {"a NUL": "a\0b", "half a character": "a\ud800", "a long name": "x" * LONGEST_NAME}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_postgresql_cannot_hold_is_refused_and_never_found(database: str, case: str) -> None:
    with PostgresRemote(database) as store:
        store.add(document("a"))
        with pytest.raises(Conflict, match="cannot be stored in PostgreSQL"):
            store.add(document(NAMES[case]))
        assert store.find([f"virtual-policy/{NAMES[case]}"]) == store.by_id([NAMES[case]]) == []
        assert store.count() == 1


def test_a_document_may_have_what_postgresql_text_may_not(database: str) -> None:
    wanted = document("a") | {"description": "a\0b \ud83d \U0001f642"}
    with PostgresRemote(database) as store:
        store.add(wanted)
        (row,) = store.rows()
    assert row["description"] == wanted["description"]


def test_a_commit_is_on_disk_whatever_the_database_is_set_to(postgres: PostgresServer) -> None:
    """This server has synchronous_commit off; a standby that it waits for is another setting, which is kept."""
    name = postgres.new_database()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    with PostgresRemote(postgres.url(name)) as store:
        query = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
        assert store.database.run(lambda connection, _: connection.execute(query).fetchone()) == ("on", "read committed")


def test_the_password_comes_from_where_libpq_finds_it(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.new_database()
    postgres.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")
    postgres.execute(f"ALTER DATABASE {name} OWNER TO {GUARDED}")
    url, identity = postgres.url(name, user=GUARDED), f"postgresql://127.0.0.1:{postgres.port}/{name}"
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    monkeypatch.setenv("PGPASSWORD", "wrong-horse")
    with PostgresRemote(url) as store:
        assert store.identity == identity
        with pytest.raises(RemoteError, match="password authentication failed") as raised:
            store.add(document("a"))
    assert "horse" not in str(raised.value)
    monkeypatch.delenv("PGPASSWORD")
    passwords = tmp_path / "passwords"
    passwords.write_text(f"127.0.0.1:{postgres.port}:*:{GUARDED}:{PASSWORD}\n")
    passwords.chmod(0o600)
    service = tmp_path / "services"
    service.write_text(f"[mine]\nhost=127.0.0.1\nport={postgres.port}\nuser={GUARDED}\ndbname={name}\n")
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    with PostgresRemote(url) as store:
        store.add(document("a"))
    for spelling in ("postgresql:?service=mine", "postgresql://?service=mine"):
        with open_postgres_reader(spelling) as reader:
            assert reader.identity == "postgresql:service=mine"
            assert reader.count() == 1


GOOD = {
    "postgresql://db/policies": "postgresql://db/policies",
    "postgresql://me@db.example:5432/policies?sslmode=verify-full": "postgresql://db.example/policies",
    "postgresql://a:1,b:2/p?target_session_attrs=read-write": "postgresql://a:1,b:2/p",
    "postgresql:///p?host=/run/postgresql&port=5433": "postgresql:///run/postgresql:5433/p",
    "postgresql:?service=prod": "postgresql:service=prod",
}
BAD = {
    "postgresql://me:canary@db/p": "must not contain a password",
    "postgresql://db/p?password=canary": "must not contain a password",
    "postgresql://db/p?PASSWORD=canary": "must not contain a password",
    "postgresql://db/p?passfile=canary": "must not contain a password",
    "postgresql://db/p?options=-ccanary": "has a parameter that policyctl does not accept",
    "postgresql:": "must be postgresql://HOST/DATABASE",
    "postgresql:db?service=canary": "must be postgresql://HOST/DATABASE",
    "postgresql://db/p#canary": "must be postgresql://HOST/DATABASE",
    "postgresql://db/p\ncanary": "must be postgresql://HOST/DATABASE",
    "postgres://db/canary": "must be local",
}


@pytest.mark.parametrize("url", [*GOOD, *BAD])
def test_urls(url: str) -> None:
    complaint = remote_url_error(url)
    if url in GOOD:
        assert (complaint, postgres_identity(url)) == (None, GOOD[url])
    else:
        assert complaint is not None
        assert BAD[url] in complaint
        assert "canary" not in complaint


def test_applied_and_planned_again_nothing_is_left(database: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    remote = ("--remote", database)
    assert policyctl("apply", "--yes", *remote).code == 0
    again = policyctl("plan", "--detailed-exitcode", *remote)
    assert (again.code, again.err) == (0, "")
    (project.policies / "anygem.yaml").unlink()
    project.write("other.yaml", ANYGEM.replace("anygem", "other"))
    assert policyctl("apply", "--yes", *remote).code == 0
    with open_postgres_reader(database) as reader:  # without a scope nothing is removed: others may keep policies there
        assert [row["name"] for row in reader.rows()] == ["virtual-policy/anygem", "virtual-policy/other"]


def test_a_database_that_cannot_be_reached_is_one_clear_line(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    ran = policyctl("plan", "--remote", "postgresql://127.0.0.1:1/policies")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "postgresql://127.0.0.1:1/policies" in line
    assert "Connection refused" in line
    ran = policyctl("plan", "--remote", "postgresql://me:canary@127.0.0.1:1/policies")
    assert "must not contain a password" in ran.err
    assert "canary" not in ran.err + ran.out
