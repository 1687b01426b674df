-- The journal: what was told, in the order of receipt.  Append only.
-- `day` is the local date of the event time (proleptic ordinal), so that a person's day is a few
-- neighbouring pages; (at, id) makes the same fact one row and keeps inserts local, too.
CREATE TABLE reading (
    seq         INTEGER PRIMARY KEY,
    id          BLOB    NOT NULL,
    device      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    person      TEXT,               -- only for what belongs to one person's day
    at          INTEGER NOT NULL,   -- by the teller's clock, ms
    received_at INTEGER NOT NULL,   -- by ours, ms
    event_at    INTEGER,            -- punches: when it happened, as far as was known at receipt
    trust       INTEGER NOT NULL DEFAULT 0,  -- index into rules.model.TRUST
    earliest    INTEGER NOT NULL DEFAULT 0,  -- quarantined punches: not before
    day         INTEGER,
    body        TEXT    NOT NULL,   -- JSON of the body
    raw         BLOB    NOT NULL,
    serial      TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX reading_told ON reading (at, id);
CREATE INDEX reading_person_day ON reading (day, person) WHERE person IS NOT NULL;
CREATE INDEX reading_received ON reading (received_at);
-- Punches whose terminal's clock cannot be trusted bear on every date they may have happened on.
CREATE INDEX reading_quarantined ON reading (person, day) WHERE trust = 3;
-- Everything but punches is rare and is asked for by kind.
CREATE INDEX reading_other ON reading (kind, device, at) WHERE kind <> 'punch';

-- Where a driver goes on (PUSH stamps).
CREATE TABLE mark (
    device TEXT NOT NULL,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

-- Derived: one row a person and work date.  `body` is the DayRecord without its slots, `slots` a
-- JSON array.  revision, changed_at and change_seq are book-keeping, not facts.
CREATE TABLE attendance_day (
    work_date   TEXT    NOT NULL,
    person      TEXT    NOT NULL,
    unit        TEXT    NOT NULL,
    verdict     TEXT    NOT NULL,
    finality    TEXT    NOT NULL,
    points      REAL    NOT NULL,
    body        TEXT    NOT NULL,
    slots       TEXT    NOT NULL,
    inputs_hash TEXT    NOT NULL,
    findings    INTEGER NOT NULL,   -- violations, alerts and adjustments there ever were
    as_of       INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL,
    change_seq  INTEGER NOT NULL,
    PRIMARY KEY (work_date, person)
) STRICT, WITHOUT ROWID;
CREATE INDEX attendance_day_person ON attendance_day (person, work_date);
CREATE INDEX attendance_day_unit ON attendance_day (unit, work_date);

CREATE TABLE violation (
    id          TEXT    PRIMARY KEY,
    rule        TEXT    NOT NULL,
    code        TEXT    NOT NULL,
    person      TEXT    NOT NULL,
    unit        TEXT    NOT NULL,
    work_date   TEXT    NOT NULL,
    severity    INTEGER NOT NULL,
    points      REAL    NOT NULL,
    finality    TEXT    NOT NULL,
    state       TEXT    NOT NULL,   -- active, withdrawn
    reason      TEXT    NOT NULL DEFAULT '',  -- of the withdrawal
    body        TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL,
    change_seq  INTEGER NOT NULL
) STRICT;
CREATE INDEX violation_day ON violation (work_date, person);
CREATE INDEX violation_person ON violation (person, work_date);

CREATE TABLE alert (
    id           TEXT    PRIMARY KEY,
    rule         TEXT    NOT NULL,
    code         TEXT    NOT NULL,
    subject_kind TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    work_date    TEXT    NOT NULL,   -- of the day it was judged on
    severity     INTEGER NOT NULL,
    opened_at    INTEGER NOT NULL,
    state        TEXT    NOT NULL,   -- open, resolved, converted, expired, withdrawn
    reason       TEXT    NOT NULL DEFAULT '',
    body         TEXT    NOT NULL,
    acknowledged_by TEXT NOT NULL DEFAULT '',
    acknowledged_at INTEGER,
    note         TEXT    NOT NULL DEFAULT '',
    revision     INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    change_seq   INTEGER NOT NULL
) STRICT;
CREATE INDEX alert_day ON alert (work_date, subject_kind, subject);
CREATE INDEX alert_open ON alert (state, opened_at);

CREATE TABLE adjustment (
    id         TEXT    PRIMARY KEY,
    person     TEXT    NOT NULL,
    work_date  TEXT    NOT NULL,
    period     TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    change_seq INTEGER NOT NULL
) STRICT;
CREATE INDEX adjustment_day ON adjustment (work_date, person);

-- Derived: the last thing known of each device.
CREATE TABLE device_state (
    device      TEXT    PRIMARY KEY,
    state       TEXT    NOT NULL,   -- online, offline, unknown
    since       INTEGER NOT NULL,
    reason      TEXT    NOT NULL DEFAULT '',
    clock_offset INTEGER,           -- device clock minus ours, ms
    clock_at    INTEGER,
    complete_until INTEGER NOT NULL DEFAULT 0,
    last_reading_at INTEGER,
    punches     INTEGER NOT NULL DEFAULT 0,
    unreadable  INTEGER NOT NULL DEFAULT 0,
    info        TEXT    NOT NULL DEFAULT '{}',
    change_seq  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Every derived change, in order: the outbox of all sinks, /v1/changes and /v1/stream.
CREATE TABLE change (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT    NOT NULL,       -- attendance, violation, alert, device, adjustment
    op      TEXT    NOT NULL,       -- opened, amended, withdrawn
    key     TEXT    NOT NULL,       -- id of the row; person/work_date for attendance
    at      INTEGER NOT NULL,
    reason  TEXT    NOT NULL DEFAULT '',
    row     TEXT    NOT NULL        -- the whole new row as the API shows it, JSON
) STRICT;

CREATE TABLE cursor (
    sink TEXT    PRIMARY KEY,
    seq  INTEGER NOT NULL,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rejected (
    sink   TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    reason TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (sink, seq)
) STRICT, WITHOUT ROWID;

-- When a day is to be judged again though nothing may have come.
CREATE TABLE wake (
    subject_kind TEXT    NOT NULL,  -- person, hall
    subject      TEXT    NOT NULL,
    work_date    TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (subject_kind, subject, work_date)
) STRICT, WITHOUT ROWID;
CREATE INDEX wake_at ON wake (at);

CREATE TABLE token (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,    -- space separated
    hash       BLOB    NOT NULL UNIQUE,  -- sha-256 of the secret
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE idempotency (
    token   TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    request BLOB    NOT NULL,       -- sha-256 of method, path and body
    status  INTEGER NOT NULL,
    answer  TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
