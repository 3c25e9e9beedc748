-- Which store this is, so that a rollback that was marked under another one is told from one of its own; when it was made,
-- unless that was before this was kept; and whether people know. One row. A copy of the file is the same store.
CREATE TABLE identity (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    id       TEXT    NOT NULL,
    made_at  INTEGER,
    is_known INTEGER NOT NULL DEFAULT 0
);
INSERT INTO identity (only_row, id) VALUES (1, lower(hex(randomblob(16))));
