-- Policies that the host knows: what each is, who pushed it, why, and where it came from. A name and version never
-- changes what it stands for; only signatures are added.
CREATE TABLE releases (
    name                   TEXT    NOT NULL,
    version                TEXT    NOT NULL,
    kind                   TEXT    NOT NULL,
    digest                 TEXT    NOT NULL REFERENCES components (digest),
    contract               TEXT    NOT NULL,
    settings_schema_sha256 TEXT    NOT NULL,
    settings               TEXT    NOT NULL,
    script                 TEXT,
    wasi_stub              INTEGER NOT NULL,
    summary                TEXT    NOT NULL,
    author                 TEXT    NOT NULL,
    reason                 TEXT    NOT NULL,
    actor                  TEXT    NOT NULL,
    provenance             TEXT    NOT NULL,
    envelope               TEXT,
    inserted_at            INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE INDEX releases_digest ON releases (digest);
