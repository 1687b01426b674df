-- The eye: cameras and posts.  Of a seat's reading `ref` is the window.

-- Whose judgement a violation is (person, post), and for a post the window.
ALTER TABLE violation ADD COLUMN scope TEXT NOT NULL DEFAULT 'person';
ALTER TABLE violation ADD COLUMN window TEXT NOT NULL DEFAULT '';
CREATE INDEX violation_post ON violation (work_date, window) WHERE window <> '';

-- Derived: one row a watched window and date.  `body` is the PostRecord.
CREATE TABLE post_day (
    work_date  TEXT    NOT NULL,
    window     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    as_of      INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    change_seq INTEGER NOT NULL,
    PRIMARY KEY (work_date, window)
) STRICT, WITHOUT ROWID;

-- A rating is known by its id alone: one without a time that is told again would be dated anew.  Of
-- those that are there twice the first counts; the others' words stay, and the dates that counted
-- them are judged again, with all that are open.
CREATE TEMP TABLE told_again AS
    SELECT seq, window, day FROM reading
    WHERE kind = 'rating' AND kind <> 'punch' AND seq NOT IN (
        SELECT min(seq) FROM reading WHERE kind = 'rating' AND kind <> 'punch' GROUP BY id);
INSERT OR REPLACE INTO wake
    SELECT DISTINCT 'window', window, date((day - 719163) * 86400, 'unixepoch'), 0
    FROM told_again WHERE window <> '';
UPDATE reading SET kind = 'unreadable', window = NULL, ref = NULL, raw = CAST(body AS BLOB),
    body = '{"type":"unreadable","reason":"a rating that was told before"}'
    WHERE seq IN (SELECT seq FROM told_again);
DROP TABLE told_again;
CREATE UNIQUE INDEX reading_rating ON reading (id) WHERE kind = 'rating';
DELETE FROM meta WHERE name = 'settings';

-- A queue system may use the ids of its events again the next day.
CREATE TABLE numbered (
    work_date TEXT    NOT NULL,
    reading   BLOB    NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (work_date, reading)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO numbered
    SELECT date((told.day - 719163) * 86400, 'unixepoch'), told.id, call.seq
    FROM reading AS told CROSS JOIN call ON call.reading = told.id
    WHERE told.kind = 'queue' ORDER BY told.seq;
DROP TABLE call;
ALTER TABLE numbered RENAME TO call;
CREATE INDEX call_seq ON call (seq);

-- The posts to be judged again when somebody takes a ticket of a queue, or is called: how many wait
-- matters to them until then.
CREATE TABLE waits_on (
    work_date TEXT    NOT NULL,
    window    TEXT    NOT NULL,
    queue     TEXT    NOT NULL,
    until     INTEGER NOT NULL,
    PRIMARY KEY (work_date, window, queue)
) STRICT, WITHOUT ROWID;
