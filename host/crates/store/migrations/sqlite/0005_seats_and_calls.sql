-- Who is in charge of what, who was before, and who stands by; `slots` had only the first.
CREATE TABLE seats (
    migration  TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    seat       TEXT    NOT NULL CHECK (seat IN ('active', 'previous', 'candidate')),
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    wasi_stub  INTEGER NOT NULL,
    settings   TEXT    NOT NULL,
    configured TEXT    NOT NULL,
    memory     BLOB    NOT NULL,
    held       TEXT,
    rule       TEXT,
    evidence   TEXT,
    since      INTEGER NOT NULL,
    updated_by TEXT    NOT NULL,
    PRIMARY KEY (migration, kind, seat)
) WITHOUT ROWID;
INSERT INTO seats (migration, kind, seat, name, version, digest, wasi_stub, settings, configured, memory, since, updated_by)
    SELECT migration, kind, 'active', '', '', digest, 0, settings, configured, memory, updated_at, updated_by FROM slots;
DROP TABLE slots;

-- Settings by their SHA-256, because every call has them and they rarely change.
CREATE TABLE policy_settings (
    digest   TEXT PRIMARY KEY,
    settings TEXT NOT NULL
) WITHOUT ROWID;

-- Every question to a rollback or stages policy, every plan, and a sample of the requests that `decide` was asked about.
-- What rollback and stages policies look at is the check of the same time in `checks`.
CREATE TABLE policy_calls (
    id              INTEGER PRIMARY KEY,
    migration       TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    kind            TEXT    NOT NULL,
    role            TEXT    NOT NULL,
    policy          TEXT    NOT NULL,
    digest          TEXT    NOT NULL,
    wasi_stub       INTEGER NOT NULL,
    settings_digest TEXT    NOT NULL,
    check_at        INTEGER,
    question        TEXT    NOT NULL,
    memory          BLOB    NOT NULL,
    answer          TEXT    NOT NULL,
    memory_after    BLOB    NOT NULL,
    fuel            INTEGER NOT NULL,
    took_us         INTEGER NOT NULL
);
CREATE INDEX policy_calls_migration_id ON policy_calls (migration, id);
CREATE INDEX policy_calls_at ON policy_calls (at);
CREATE INDEX policy_calls_check ON policy_calls (migration, check_at);
