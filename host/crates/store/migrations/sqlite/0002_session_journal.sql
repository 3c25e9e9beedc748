-- The `replicate` operations of each session, so that a host that was killed can bring fresh workers up to date.
CREATE TABLE session_journal (
    migration   TEXT    NOT NULL,
    session     TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    operation   TEXT    NOT NULL,
    arguments   TEXT    NOT NULL,
    key         TEXT,
    removes     INTEGER NOT NULL,
    inserted_at INTEGER NOT NULL,
    PRIMARY KEY (migration, session, version)
) WITHOUT ROWID;
CREATE INDEX session_journal_key ON session_journal (migration, session, key);
