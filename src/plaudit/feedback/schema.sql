-- The database of one labelling project, version 2.
-- Times are seconds since 1970 (UTC); durations are milliseconds. Rows are never deleted.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE prompt (
    id INTEGER PRIMARY KEY,
    content TEXT NOT NULL,  -- JSON: a text, or a list of messages with role and content
    digest TEXT NOT NULL UNIQUE
);

CREATE TABLE generator (  -- what wrote a response: a checkpoint, or a file that was imported
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    model_hash TEXT NOT NULL,
    stage TEXT NOT NULL,
    details TEXT NOT NULL,  -- JSON
    UNIQUE (name, model_hash, stage, details)
);

CREATE TABLE completion (
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompt (id),
    generator_id INTEGER REFERENCES generator (id),
    token_ids TEXT,  -- JSON
    text TEXT NOT NULL,
    sampling TEXT,  -- JSON
    seed INTEGER,
    features BLOB,  -- float32, little-endian: activations of a frozen backbone
    digest TEXT NOT NULL UNIQUE  -- of everything but the features
);
CREATE INDEX completion_by_prompt ON completion (prompt_id);

CREATE TABLE item (  -- a pair to ask about
    id INTEGER PRIMARY KEY,
    prompt_id INTEGER NOT NULL REFERENCES prompt (id),
    a INTEGER NOT NULL REFERENCES completion (id),
    b INTEGER NOT NULL REFERENCES completion (id),
    purpose TEXT NOT NULL CHECK (purpose IN ('train', 'eval', 'gold', 'practice')),
    gold TEXT CHECK (gold IN ('a', 'b')),  -- the known answer
    round INTEGER NOT NULL,
    created REAL NOT NULL,
    UNIQUE (a, b, purpose, round),
    CHECK (a <> b),
    CHECK (purpose <> 'gold' OR gold IS NOT NULL)
);

CREATE TABLE annotator (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('owner', 'person', 'simulated')),
    secret_hash TEXT NOT NULL UNIQUE,
    joined REAL NOT NULL,
    seen REAL NOT NULL
);

CREATE TABLE assignment (  -- who was asked about which pair, and on which side the responses stood
    id INTEGER PRIMARY KEY,
    annotator_id INTEGER NOT NULL REFERENCES annotator (id),
    item_id INTEGER NOT NULL REFERENCES item (id),
    repeat INTEGER NOT NULL CHECK (repeat IN (0, 1)),  -- 1: asked again with sides swapped
    "left" TEXT NOT NULL CHECK ("left" IN ('a', 'b')),
    given REAL NOT NULL,
    released REAL,  -- the pair went to somebody else, because no answer came
    event_id INTEGER REFERENCES event (id),  -- the event that is valid now, and its outcome: kept by a trigger
    outcome TEXT,
    UNIQUE (annotator_id, item_id, repeat)
);
CREATE INDEX assignment_by_item ON assignment (repeat, item_id, outcome, released);
CREATE INDEX assignment_open ON assignment (given) WHERE outcome IS NULL AND released IS NULL;
CREATE INDEX assignment_by_annotator ON assignment (annotator_id);
CREATE INDEX assignment_by_event ON assignment (annotator_id, event_id);

CREATE TABLE tally (  -- votes on a pair, given or expected, without repetitions and skips: kept by triggers
    item_id INTEGER PRIMARY KEY REFERENCES item (id),
    votes INTEGER NOT NULL
);

CREATE TABLE event (  -- append-only
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,  -- from the client: a request that is sent again counts once
    assignment_id INTEGER NOT NULL REFERENCES assignment (id),
    kind TEXT NOT NULL CHECK (kind IN ('choose', 'tie', 'both_bad', 'skip', 'undo', 'revise', 'reveal')),
    outcome TEXT CHECK (outcome IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    strength INTEGER NOT NULL CHECK (strength IN (1, 2)),
    active_ms INTEGER NOT NULL CHECK (active_ms >= 0),
    wall_ms INTEGER NOT NULL CHECK (wall_ms >= 0),
    at REAL NOT NULL,
    CHECK (CASE kind
        WHEN 'choose' THEN outcome IN ('a', 'b')
        WHEN 'revise' THEN outcome IS NOT NULL
        WHEN 'undo' THEN outcome IS NULL
        WHEN 'reveal' THEN outcome IS NULL
        ELSE outcome = kind
    END)
);
CREATE INDEX event_by_assignment ON event (assignment_id);

CREATE TABLE progress (  -- written by the process that makes pairs
    key TEXT PRIMARY KEY,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    message TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;

-- The answers that are valid now.
CREATE VIEW label AS
SELECT assignment.id AS assignment, assignment.annotator_id AS annotator, item.id AS item, item.prompt_id AS prompt,
    item.a, item.b, item.purpose, item.gold, item.round, assignment.repeat, assignment."left",
    event.id AS event, event.outcome, event.strength, event.active_ms, event.wall_ms, event.at
FROM assignment
JOIN item ON item.id = assignment.item_id
JOIN event ON event.id = assignment.event_id;

CREATE TRIGGER event_is_valid AFTER INSERT ON event WHEN NEW.kind <> 'reveal' BEGIN
    UPDATE assignment
    SET event_id = CASE NEW.kind WHEN 'undo' THEN NULL ELSE NEW.id END, outcome = NEW.outcome
    WHERE id = NEW.assignment_id;
END;

CREATE TRIGGER item_is_tallied AFTER INSERT ON item BEGIN INSERT INTO tally VALUES (NEW.id, 0); END;
CREATE TRIGGER assignment_is_tallied AFTER INSERT ON assignment WHEN NEW.repeat = 0 BEGIN
    UPDATE tally SET votes = votes
        + CASE WHEN NEW.outcome IS NULL THEN NEW.released IS NULL ELSE NEW.outcome <> 'skip' END
    WHERE item_id = NEW.item_id;
END;
CREATE TRIGGER answer_is_tallied AFTER UPDATE OF outcome, released ON assignment WHEN NEW.repeat = 0 BEGIN
    UPDATE tally SET votes = votes
        + CASE WHEN NEW.outcome IS NULL THEN NEW.released IS NULL ELSE NEW.outcome <> 'skip' END
        - CASE WHEN OLD.outcome IS NULL THEN OLD.released IS NULL ELSE OLD.outcome <> 'skip' END
    WHERE item_id = NEW.item_id;
END;

-- What a vote is about never changes. Only the features of a response may be added later.
CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER prompt_no_update BEFORE UPDATE ON prompt BEGIN SELECT RAISE(ABORT, 'prompts are frozen'); END;
CREATE TRIGGER prompt_no_delete BEFORE DELETE ON prompt BEGIN SELECT RAISE(ABORT, 'prompts are frozen'); END;
CREATE TRIGGER generator_no_update BEFORE UPDATE ON generator BEGIN SELECT RAISE(ABORT, 'generators are frozen'); END;
CREATE TRIGGER generator_no_delete BEFORE DELETE ON generator BEGIN SELECT RAISE(ABORT, 'generators are frozen'); END;
CREATE TRIGGER completion_no_update
BEFORE UPDATE OF id, prompt_id, generator_id, token_ids, text, sampling, seed, digest ON completion
BEGIN SELECT RAISE(ABORT, 'responses are frozen'); END;
CREATE TRIGGER completion_no_delete BEFORE DELETE ON completion BEGIN SELECT RAISE(ABORT, 'responses are frozen'); END;
CREATE TRIGGER item_no_update BEFORE UPDATE ON item BEGIN SELECT RAISE(ABORT, 'pairs are frozen'); END;
CREATE TRIGGER item_no_delete BEFORE DELETE ON item BEGIN SELECT RAISE(ABORT, 'pairs are frozen'); END;
CREATE TRIGGER assignment_no_update BEFORE UPDATE OF id, annotator_id, item_id, repeat, "left" ON assignment
BEGIN SELECT RAISE(ABORT, 'sides are frozen'); END;
CREATE TRIGGER assignment_no_delete BEFORE DELETE ON assignment BEGIN SELECT RAISE(ABORT, 'sides are frozen'); END;
