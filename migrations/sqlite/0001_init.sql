-- The catalog. Time is microseconds since the Unix epoch; properties and fragments are JSON text.

-- The root namespace is the row whose path is empty. A path is the names from the root, joined by
-- U+001F, which no name may hold.
CREATE TABLE namespaces (
    namespace_id  BLOB   NOT NULL PRIMARY KEY,
    parent_id     BLOB   REFERENCES namespaces (namespace_id),
    path          TEXT   NOT NULL UNIQUE,
    name          TEXT   NOT NULL,
    properties    TEXT   NOT NULL,
    deletion_protection BOOLEAN NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL
);
CREATE INDEX namespaces_by_parent ON namespaces (parent_id, name);

CREATE TABLE tables (
    table_id      BLOB   NOT NULL PRIMARY KEY,
    namespace_id  BLOB   NOT NULL REFERENCES namespaces (namespace_id),
    name          TEXT   NOT NULL,
    location      TEXT   NOT NULL UNIQUE,
    state         TEXT   NOT NULL,
    origin        TEXT   NOT NULL,
    properties    TEXT   NOT NULL,
    deletion_protection BOOLEAN NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    updated_by    TEXT   NOT NULL,
    updated_at_us BIGINT NOT NULL,
    UNIQUE (namespace_id, name)
);

-- Tables that were dropped, and can be had back until they are purged: the namespace and the name that
-- each had. The row of such a table stands in a namespace without a name, where nobody finds it.
CREATE TABLE dropped_tables (
    table_id       BLOB   NOT NULL PRIMARY KEY REFERENCES tables (table_id) ON DELETE CASCADE,
    path           TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    dropped_by     TEXT   NOT NULL,
    dropped_at_us  BIGINT NOT NULL,
    purge_after_us BIGINT NOT NULL
);
CREATE INDEX dropped_tables_by_name ON dropped_tables (path, name);
CREATE INDEX dropped_tables_by_time ON dropped_tables (purge_after_us);

-- An index of the manifests in storage, and what is known of how each came to be.
CREATE TABLE table_versions (
    table_id        BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch          TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    manifest_path   TEXT   NOT NULL,
    manifest_size   BIGINT,
    e_tag           TEXT,
    naming_scheme   TEXT   NOT NULL,
    origin          TEXT   NOT NULL,
    operation       TEXT,
    transaction_id  TEXT,
    committed_by    TEXT,
    committed_at_us BIGINT NOT NULL,
    properties      TEXT   NOT NULL,
    PRIMARY KEY (table_id, branch, version)
);
CREATE INDEX table_versions_by_transaction ON table_versions (transaction_id);

-- Which manifest is which version, where storage cannot decide it: whoever adds the row has the
-- version. A row that is not final is of a manifest that still has to be copied from where it is
-- staged to its final name, by whoever sees it. The location is that of the table, or of a branch in
-- it; there are rows before there is a table.
CREATE TABLE manifest_claims (
    location      TEXT NOT NULL,
    version       BIGINT NOT NULL,
    path          TEXT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    is_final      BOOLEAN NOT NULL,
    claimed_at_us BIGINT NOT NULL,
    PRIMARY KEY (location, version)
);
CREATE INDEX manifest_claims_staged ON manifest_claims (location, version) WHERE NOT is_final;

-- The commits that share a version with others, which is made by a transaction of its own.
CREATE TABLE shared_transactions (
    transaction_id TEXT   NOT NULL PRIMARY KEY,
    table_id       BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch         TEXT   NOT NULL,
    version        BIGINT NOT NULL,
    committed_by   TEXT   NOT NULL
);
CREATE INDEX shared_transactions_by_version ON shared_transactions (table_id, branch, version);

-- Writes in several parts, made by several requests at once, that become one version. How many parts
-- it has is noted when it is completed, so that none can get lost on the way. Times out like an
-- upload while it is open; after that its row stays for a while to answer those that ask again.
CREATE TABLE multipart_writes (
    session_id    BLOB   NOT NULL PRIMARY KEY,
    table_id      BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch        TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    mode          TEXT,
    num_parts     BIGINT,
    read_version  BIGINT NOT NULL,
    version       BIGINT,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    expires_at_us BIGINT NOT NULL
);
CREATE INDEX multipart_writes_by_table ON multipart_writes (table_id, branch);
CREATE INDEX multipart_writes_by_expiry ON multipart_writes (expires_at_us);

-- The claim is the transaction of the commit that has the upload. One with a session is a part of a
-- multipart write; its part_id is the client's, if it gave one.
CREATE TABLE uploads (
    upload_id     BLOB   NOT NULL PRIMARY KEY,
    table_id      BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch        TEXT   NOT NULL,
    kind          TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    read_version  BIGINT NOT NULL,
    fragments     TEXT   NOT NULL,
    schema_pb     BLOB   NOT NULL,
    stable_row_ids BOOLEAN NOT NULL,
    claim         TEXT,
    claimed_at_us BIGINT,
    session_id    BLOB,
    part_id       TEXT,
    num_rows      BIGINT NOT NULL,
    num_bytes     BIGINT NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    expires_at_us BIGINT NOT NULL
);
CREATE INDEX uploads_by_table ON uploads (table_id, upload_id);
CREATE INDEX uploads_by_expiry ON uploads (expires_at_us);
CREATE INDEX uploads_by_claim ON uploads (claim);
CREATE INDEX uploads_by_session ON uploads (session_id);

-- The data files of an upload, each noted before its first byte is written, so that no crash
-- leaves a file that nobody knows of.
CREATE TABLE upload_files (
    upload_id BLOB NOT NULL REFERENCES uploads (upload_id) ON DELETE CASCADE,
    path      TEXT NOT NULL,
    PRIMARY KEY (upload_id, path)
);

CREATE INDEX upload_files_by_path ON upload_files (path);

-- Whole folders to remove: tables that were dropped, and tables whose creation did not finish.
-- Whoever removes one claims it first; while there is a row, nobody may make a table there.
CREATE TABLE pending_removals (
    location      TEXT   NOT NULL PRIMARY KEY,
    not_before_us BIGINT NOT NULL,
    claimed_by    TEXT,
    claimed_at_us BIGINT
);

-- Answers to requests that carried an Idempotency-Key.
CREATE TABLE idempotency_keys (
    key_hash      TEXT   NOT NULL PRIMARY KEY,
    body_hash     TEXT   NOT NULL,
    response      TEXT,
    holder        BLOB   NOT NULL,
    taken_at_us   BIGINT NOT NULL,
    lease_us      BIGINT NOT NULL,
    expires_at_us BIGINT NOT NULL
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at_us);

-- Work that outlasts its request: index builds, backfills, refreshes. Who runs one holds it until
-- its lease ends, and gives signs of life; then another may take it up.
CREATE TABLE jobs (
    job_id        BLOB   NOT NULL PRIMARY KEY,
    table_id      BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch        TEXT   NOT NULL,
    kind          TEXT   NOT NULL,
    request       TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    error         TEXT,
    version       BIGINT,
    properties    TEXT   NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    updated_at_us BIGINT NOT NULL,
    holder        BLOB,
    lease_us      BIGINT NOT NULL
);
CREATE INDEX jobs_by_table ON jobs (table_id, job_id);
CREATE INDEX jobs_by_state ON jobs (state, lease_us);

-- Materialized views: tables whose rows are the answer to a query over another table.
CREATE TABLE views (
    table_id       BLOB   NOT NULL PRIMARY KEY REFERENCES tables (table_id) ON DELETE CASCADE,
    source_id      BLOB   NOT NULL,
    query          TEXT   NOT NULL
);

-- Shallow clones: tables that read files of another, which therefore cannot be dropped.
CREATE TABLE clones (
    table_id       BLOB   NOT NULL PRIMARY KEY REFERENCES tables (table_id) ON DELETE CASCADE,
    source_location TEXT  NOT NULL,
    source_branch   TEXT  NOT NULL
);

CREATE INDEX clones_by_source ON clones (source_location);

-- Commits to several tables at once. While a row is here its versions are nobody's "latest": they
-- are put one after the other, and then all become versions in the transaction that removes the row.
CREATE TABLE batches (
    batch_id      BLOB   NOT NULL PRIMARY KEY,
    state         TEXT   NOT NULL,
    changes       TEXT   NOT NULL,
    properties    TEXT   NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    lease_us      BIGINT NOT NULL
);
CREATE INDEX batches_by_state ON batches (state, lease_us);

CREATE TABLE batch_versions (
    table_id      BLOB   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    branch        TEXT   NOT NULL,
    version       BIGINT NOT NULL,
    batch_id      BLOB   NOT NULL REFERENCES batches (batch_id) ON DELETE CASCADE,
    PRIMARY KEY (table_id, branch)
);
CREATE INDEX batch_versions_by_batch ON batch_versions (batch_id);
