-- What policies remember, by content: what a policy remembers after one check is what it remembers before the next. `packed`
-- is deflated: alone (zlib), or, where `base` is set, as what follows that memory (raw deflate). `used_at` is when a call
-- named it last, to within an hour; a base is used when what follows it is.
CREATE TABLE memories (
    id      INTEGER PRIMARY KEY,
    digest  BLOB    NOT NULL,
    base    INTEGER,
    bytes   INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    packed  BLOB    NOT NULL
);
CREATE UNIQUE INDEX memories_digest ON memories (digest);
CREATE INDEX memories_used_at ON memories (used_at);

-- Calls from before have their memories and answers in their own row; what they have there is empty from now on.
ALTER TABLE policy_calls ADD COLUMN memory_id INTEGER;
ALTER TABLE policy_calls ADD COLUMN memory_after_id INTEGER;
ALTER TABLE policy_calls ADD COLUMN packed_answer BLOB;
