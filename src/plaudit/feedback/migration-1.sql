-- From version 1 to 2: the votes on each pair are counted as they come.

CREATE TABLE tally (  -- votes on a pair, given or expected, without repetitions and skips: kept by triggers
    item_id INTEGER PRIMARY KEY REFERENCES item (id),
    votes INTEGER NOT NULL
);
INSERT INTO tally SELECT id, (
    SELECT count(*) FROM assignment
    WHERE repeat = 0 AND item_id = item.id AND (outcome <> 'skip' OR outcome IS NULL AND released IS NULL)
) FROM item;

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
