-- Times are Unix milliseconds. Hashes are SHA-256, 32 bytes. JSON columns hold types of app::api.

-- What the coordinator knows about itself: exactly one row.
CREATE TABLE coordinator (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    admin_token_sha256 BLOB NOT NULL CHECK (length(admin_token_sha256) = 32)
) STRICT;

-- Dashboard logins.
CREATE TABLE sessions (
    token_sha256 BLOB PRIMARY KEY CHECK (length(token_sha256) = 32),
    expires_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    run            TEXT PRIMARY KEY CHECK (length(run) BETWEEN 1 AND 64),
    created_ms     INTEGER NOT NULL,
    model_json     TEXT CHECK (json_valid(model_json)), -- NULL: it began with uploaded parameters
    dataset        TEXT,                                -- NULL: it is not evaluated
    version        INTEGER NOT NULL CHECK (version >= 0),
    best_version   INTEGER,
    autorun_rounds INTEGER NOT NULL DEFAULT 0 CHECK (autorun_rounds >= 0),
    FOREIGN KEY (run, version) REFERENCES model_versions (run, version) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (run, best_version) REFERENCES model_versions (run, version) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE config_versions (
    run            TEXT NOT NULL REFERENCES runs (run),
    config_version INTEGER NOT NULL CHECK (config_version >= 1),
    config_json    TEXT NOT NULL CHECK (json_valid(config_json)),
    created_ms     INTEGER NOT NULL,
    PRIMARY KEY (run, config_version)
) STRICT, WITHOUT ROWID;

-- Global models: content-addressed files under models/, named by their hash.
CREATE TABLE model_versions (
    run           TEXT NOT NULL REFERENCES runs (run),
    version       INTEGER NOT NULL CHECK (version >= 0),
    sha256        BLOB NOT NULL CHECK (length(sha256) = 32),
    round         INTEGER CHECK (round >= 1),       -- NULL: the initial one
    test_accuracy REAL CHECK (test_accuracy BETWEEN 0 AND 1),
    created_ms    INTEGER NOT NULL,
    pruned        INTEGER NOT NULL DEFAULT 0 CHECK (pruned IN (0, 1)), -- its blob was removed to save space
    PRIMARY KEY (run, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE clients (
    run          TEXT NOT NULL REFERENCES runs (run),
    client       TEXT NOT NULL CHECK (length(client) BETWEEN 1 AND 32),
    name         TEXT NOT NULL,
    device       TEXT NOT NULL,
    samples      INTEGER NOT NULL CHECK (samples >= 1),
    token_sha256 BLOB NOT NULL CHECK (length(token_sha256) = 32),
    standing     TEXT NOT NULL CHECK (standing IN ('pending', 'admitted', 'kicked', 'left')),
    banned       INTEGER NOT NULL CHECK (banned IN (0, 1)),
    rounds       INTEGER NOT NULL CHECK (rounds >= 0),
    sent_bytes   INTEGER NOT NULL CHECK (sent_bytes >= 0),
    last_loss    REAL,
    joined_ms    INTEGER NOT NULL,
    seen_ms      INTEGER NOT NULL,
    PRIMARY KEY (run, client)
) STRICT, WITHOUT ROWID;

CREATE TABLE rounds (
    run            TEXT NOT NULL REFERENCES runs (run),
    number         INTEGER NOT NULL CHECK (number >= 1),
    status         TEXT NOT NULL CHECK (status IN ('open', 'complete', 'void')),
    reason         TEXT NOT NULL DEFAULT '',
    base_version   INTEGER NOT NULL,
    version        INTEGER,
    config_version INTEGER NOT NULL,
    cohort         INTEGER NOT NULL CHECK (cohort >= 1),
    updates        INTEGER NOT NULL DEFAULT 0 CHECK (updates BETWEEN 0 AND cohort),
    samples        INTEGER NOT NULL DEFAULT 0,
    received_bytes INTEGER NOT NULL DEFAULT 0,
    train_loss     REAL,
    test_loss      REAL,
    test_accuracy  REAL CHECK (test_accuracy BETWEEN 0 AND 1),
    opened_ms      INTEGER NOT NULL,
    deadline_ms    INTEGER NOT NULL,
    ended_ms       INTEGER,
    PRIMARY KEY (run, number),
    FOREIGN KEY (run, base_version) REFERENCES model_versions (run, version),
    FOREIGN KEY (run, version) REFERENCES model_versions (run, version),
    FOREIGN KEY (run, config_version) REFERENCES config_versions (run, config_version),
    CHECK ((status = 'complete') = (version IS NOT NULL)),
    CHECK ((status = 'open') = (ended_ms IS NULL))
) STRICT, WITHOUT ROWID;

-- Who was asked in which round, and what came of it. `sha256` is NULL until the update is in.
CREATE TABLE contributions (
    run         TEXT NOT NULL,
    round       INTEGER NOT NULL,
    client      TEXT NOT NULL,
    sha256      BLOB CHECK (length(sha256) = 32),
    bytes       INTEGER CHECK (bytes >= 0),
    samples     INTEGER CHECK (samples >= 1),
    loss        REAL,
    received_ms INTEGER,
    PRIMARY KEY (run, round, client),
    FOREIGN KEY (run, round) REFERENCES rounds (run, number),
    FOREIGN KEY (run, client) REFERENCES clients (run, client)
) STRICT, WITHOUT ROWID;

-- What happened, for people: joins, admissions, removals, rounds, changes of config.
CREATE TABLE events (
    id     INTEGER PRIMARY KEY,
    run    TEXT NOT NULL REFERENCES runs (run),
    at_ms  INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    client TEXT,
    round  INTEGER,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX events_by_run ON events (run, id);
