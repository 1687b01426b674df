-- The counter: ratings, queue events, displays.
-- `window` is set (empty: the whole hall's) for what belongs to a window's day; `ref` is the ticket
-- of a queue event, the session or service of a prompt or rating, the rating of a follow-up step.
ALTER TABLE reading ADD COLUMN window TEXT;
ALTER TABLE reading ADD COLUMN ref TEXT;
CREATE INDEX reading_window ON reading (day, window) WHERE window IS NOT NULL;
CREATE INDEX reading_ticket ON reading (day, ref) WHERE kind = 'queue';
CREATE INDEX reading_ref ON reading (ref, day)
    WHERE ref IS NOT NULL AND kind <> 'punch' AND kind <> 'queue';

-- Whose judgement an alert is: person, hall, window, counter.
ALTER TABLE alert ADD COLUMN scope TEXT NOT NULL DEFAULT 'person';
UPDATE alert SET scope = 'hall' WHERE subject_kind <> 'person';

-- Derived: one row a window and date.  `body` is the WindowRecord without services and ratings.
CREATE TABLE window_day (
    work_date  TEXT    NOT NULL,
    window     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    call_seq   INTEGER,             -- of its last call
    body       TEXT    NOT NULL,
    as_of      INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    change_seq INTEGER NOT NULL,
    PRIMARY KEY (work_date, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE service (
    work_date TEXT    NOT NULL,
    window    TEXT    NOT NULL,
    number    INTEGER NOT NULL,     -- in order of time
    body      TEXT    NOT NULL,
    PRIMARY KEY (work_date, window, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE rating (
    rating_id  TEXT    PRIMARY KEY,
    work_date  TEXT    NOT NULL,
    window     TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    level      INTEGER,
    follow_up  TEXT    NOT NULL,    -- its state; empty where there is none
    body       TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    change_seq INTEGER NOT NULL
) STRICT;
CREATE INDEX rating_window ON rating (work_date, window);
CREATE INDEX rating_at ON rating (at);

-- Service areas and the hall's queue by date.
CREATE TABLE area_day (
    work_date  TEXT    NOT NULL,
    area       TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    as_of      INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    change_seq INTEGER NOT NULL,
    PRIMARY KEY (work_date, area)
) STRICT, WITHOUT ROWID;

-- Numbers of calls and recalls, so that a board knows a new one; book-keeping, not facts.
CREATE TABLE call (
    reading BLOB    PRIMARY KEY,
    seq     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX call_seq ON call (seq);
