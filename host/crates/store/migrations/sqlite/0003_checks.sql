-- What policies were asked: one row for each check, for back-tests. `batches` is deflated JSON (zlib), because a month
-- of it is gigabytes otherwise; `cutover history export` writes it out.
CREATE TABLE checks (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    migration     TEXT    NOT NULL,
    at            INTEGER NOT NULL,
    phase         TEXT    NOT NULL,
    stage         INTEGER NOT NULL,
    share         INTEGER NOT NULL,
    stage_started INTEGER NOT NULL,
    verdict       TEXT,
    batches       BLOB    NOT NULL
);
-- In the order in which policies were asked: an index ends with the row's id.
CREATE INDEX checks_migration ON checks (migration);
CREATE INDEX checks_at ON checks (at);
