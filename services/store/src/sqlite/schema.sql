-- One row: the counters that every change moves together.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    -- The last revision whose events were dropped.
    compacted INTEGER NOT NULL,
    log_events INTEGER NOT NULL,
    log_bytes INTEGER NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0, 0, 0, 0);

CREATE TABLE entries (
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER
) STRICT;
CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;

-- AUTOINCREMENT: an id is never used again.
CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ttl_ms INTEGER NOT NULL,
    -- Ends when another boot runs, or when this boot's clock gets there.
    boot TEXT NOT NULL,
    ends_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_by_end ON leases (boot, ends_ms);

CREATE TABLE events (
    revision INTEGER NOT NULL,
    -- Place within the transaction.
    seq INTEGER NOT NULL,
    put INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER,
    -- Counts against the log's bound.
    bytes INTEGER NOT NULL,
    UNIQUE (revision, seq)
) STRICT;
