-- What tells the sessions of a migration apart, and the number of the stage that they are counted in.
CREATE TABLE session_stages (
    migration TEXT    PRIMARY KEY,
    key       BLOB    NOT NULL,
    stage     INTEGER NOT NULL
) WITHOUT ROWID;

-- Sessions that did something for the first time in a stage: one row for each check in which any did. `marks` has their
-- hashes by operation, pool and what they did.
CREATE TABLE session_marks (
    id        INTEGER PRIMARY KEY,
    migration TEXT    NOT NULL,
    stage     INTEGER NOT NULL,
    marks     BLOB    NOT NULL
);
CREATE INDEX session_marks_migration ON session_marks (migration);
