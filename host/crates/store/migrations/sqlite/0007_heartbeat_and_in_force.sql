-- When the host that has the store last wrote here: what shows that the store takes records. One row.
CREATE TABLE heartbeat (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at INTEGER NOT NULL
);

-- What each migration ran by when a host last started with it, so that people can be told what another configuration
-- changes: the salt of its session hash, and the classes of its operations as a JSON object.
CREATE TABLE in_force (
    migration  TEXT    PRIMARY KEY,
    salt       TEXT    NOT NULL,
    operations TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;
