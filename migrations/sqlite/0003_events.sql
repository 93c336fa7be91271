-- What happened, and what was refused.

-- Written by the transaction that makes it so, without a number; numbers are given a moment later, to
-- all that is there, so that who reads on after a number misses nothing. The path is that which the
-- object had then. The order in which they were written is the database's to say: the clocks of those who
-- write differ, and so do ids that are made of them.
CREATE TABLE events (
    written        INTEGER PRIMARY KEY,
    event_id       BLOB   NOT NULL,
    seq            BIGINT UNIQUE,
    at_us          BIGINT NOT NULL,
    kind           TEXT   NOT NULL,
    object         TEXT   NOT NULL,
    path           TEXT   NOT NULL,
    table_id       BLOB,
    branch         TEXT,
    version        BIGINT,
    transaction_id TEXT,
    principal      TEXT   NOT NULL,
    request_id     TEXT,
    operation      TEXT,
    remote         TEXT,
    code           BIGINT,
    detail         TEXT   NOT NULL
);
CREATE INDEX events_without_number ON events (written) WHERE seq IS NULL;
CREATE INDEX events_by_path ON events (path, seq);

-- One row at most: the last number. Whoever gives numbers holds it.
CREATE TABLE event_numbers (
    id       BIGINT NOT NULL PRIMARY KEY,
    last_seq BIGINT NOT NULL
);

-- How far a webhook was told, and which process tells it.
CREATE TABLE webhooks (
    name          TEXT   NOT NULL PRIMARY KEY,
    seq           BIGINT NOT NULL,
    holder        BLOB   NOT NULL,
    held_until_us BIGINT NOT NULL,
    seen_at_us    BIGINT NOT NULL
);
