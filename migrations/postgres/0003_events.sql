-- What happened, and what was refused.

-- Written by the transaction that makes it so, without a number; numbers are given a moment later, to
-- all that is there, so that who reads on after a number misses nothing. The path is that which the
-- object had then.
CREATE TABLE events (
    event_id       UUID   NOT NULL PRIMARY KEY,
    seq            BIGINT UNIQUE,
    at_us          BIGINT NOT NULL,
    kind           TEXT   COLLATE "C" NOT NULL,
    object         TEXT   NOT NULL,
    path           TEXT   COLLATE "C" NOT NULL,
    table_id       UUID,
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
CREATE INDEX events_without_number ON events (event_id) WHERE seq IS NULL;
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
    holder        UUID   NOT NULL,
    held_until_us BIGINT NOT NULL,
    seen_at_us    BIGINT NOT NULL
);
