CREATE TABLE checks (
    id        INTEGER PRIMARY KEY,
    migration TEXT    NOT NULL,
    at        INTEGER NOT NULL,
    question  TEXT    NOT NULL,
    verdict   TEXT
);
CREATE INDEX checks_migration_at ON checks (migration, at);
