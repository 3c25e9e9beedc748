-- What each pool is made of. One row for each pool and version; `active` marks those that are configured now.
CREATE TABLE pool_configurations (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL DEFAULT 2,
    config      TEXT    NOT NULL,
    active      INTEGER NOT NULL DEFAULT 0,
    inserted_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);
CREATE UNIQUE INDEX pool_configurations_name_version ON pool_configurations (name, version);

-- What each pool did, once per check.
CREATE TABLE pool_metrics (
    id          INTEGER PRIMARY KEY,
    pool_name   TEXT    NOT NULL,
    timestamp   INTEGER NOT NULL,
    metrics     TEXT    NOT NULL,
    inserted_at INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);
CREATE INDEX pool_metrics_pool_name_timestamp ON pool_metrics (pool_name, timestamp);

-- Where each migration stands and stood: one row for each phase and stage; the row without `completed_at` is now.
CREATE TABLE migration_status (
    id           INTEGER PRIMARY KEY,
    migration    TEXT    NOT NULL,
    phase        TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    completed_at INTEGER,
    metadata     TEXT    NOT NULL,
    inserted_at  INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
);
CREATE UNIQUE INDEX migration_status_current ON migration_status (migration) WHERE completed_at IS NULL;
CREATE INDEX migration_status_migration_started_at ON migration_status (migration, started_at);

-- Flags that were set; those that were not have their defaults.
CREATE TABLE flags (
    migration  TEXT    NOT NULL,
    flag       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT    NOT NULL,
    PRIMARY KEY (migration, flag)
) WITHOUT ROWID;

-- Everything that was decided, with what it was based on.
CREATE TABLE decisions (
    id         INTEGER PRIMARY KEY,
    migration  TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    from_phase TEXT    NOT NULL,
    to_phase   TEXT    NOT NULL,
    from_share INTEGER NOT NULL,
    to_share   INTEGER NOT NULL,
    policy     TEXT,
    digest     TEXT,
    findings   TEXT    NOT NULL,
    inputs     TEXT
);
CREATE INDEX decisions_migration_at ON decisions (migration, at);

-- Who did what.
CREATE TABLE audit (
    id        INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    actor     TEXT    NOT NULL,
    migration TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    detail    TEXT    NOT NULL
);
CREATE INDEX audit_migration_at ON audit (migration, at);

-- Components by content.
CREATE TABLE components (
    digest      TEXT    PRIMARY KEY,
    bytes       BLOB    NOT NULL,
    inserted_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Which policy is in charge of what, what it remembers, and what the configuration said when it was put there.
CREATE TABLE slots (
    migration  TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    settings   TEXT    NOT NULL,
    configured TEXT    NOT NULL,
    memory     BLOB    NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT    NOT NULL,
    PRIMARY KEY (migration, kind)
) WITHOUT ROWID;
