-- The plan that was in force last, for a host that begins again.
CREATE TABLE plans (
    migration TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    phase TEXT NOT NULL,
    digest TEXT NOT NULL,
    plan TEXT NOT NULL
) STRICT;
